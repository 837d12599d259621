"""Blends against `Metrics` on whole predictions, weights against a search of the simplex."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidfit.evaluation.metrics import Metrics
from vidfit.search.blend import HeldOut, global_average_precision, least_squares_on_simplex


def labels_and_predictions(seed: int, models: int, videos: int = 50, classes: int = 90) -> tuple[np.ndarray, list]:
    """Predictions that know a part of the labels each."""
    random = np.random.default_rng(seed)
    labels = random.random((videos, classes)) < 0.04
    labels[0, 0] = True
    known = [2.5 * labels * (random.random(labels.shape) < 0.7) for _ in range(models)]
    return labels, [1 / (1 + np.exp(3 - own - random.normal(size=labels.shape))) for own in known]


def exactly(predictions: list, labels: np.ndarray) -> HeldOut:
    """Each member at one width that costs nothing."""
    return HeldOut(predictions, predictions, range(len(predictions)), labels)


def gap_by_metrics(scores: np.ndarray, labels: np.ndarray) -> float:
    metrics = Metrics(labels.shape[1])
    metrics.update(scores, labels)
    return metrics.result()["gap"]


@given(seed=st.integers(0, 10_000), classes=st.integers(3, 90))
def test_gap_is_that_of_the_metrics(seed: int, classes: int):
    random = np.random.default_rng(seed)
    labels = random.random((30, classes)) < 0.1
    labels[0, 0] = True
    # All different: of equal scores the two may take different ones.
    scores = (random.permutation(labels.size) / labels.size).reshape(labels.shape).astype(np.float32)
    found = global_average_precision(scores, labels, int(labels.sum()))
    assert found == pytest.approx(gap_by_metrics(scores, labels), abs=1e-9)


def test_a_blend_reaches_what_the_whole_predictions_reach():
    labels, predictions = labels_and_predictions(1, 3)
    whole = (0.6 * predictions[0] + 0.4 * predictions[2]).astype(np.float32)
    assert exactly(predictions, labels).gap([0, 2], [0.6, 0.4]) == pytest.approx(
        gap_by_metrics(whole, labels), abs=1e-4
    )


def test_labels_outside_the_kept_classes_count_as_missed():
    labels = np.zeros((1, 100), bool)
    labels[0, [0, 99]] = True
    scores = np.linspace(1, 0, 100, dtype=np.float16)[None]
    assert exactly([scores], labels).gap([0], [1.0]) == pytest.approx(0.5)


def test_fitted_weights_err_least_of_all_on_the_simplex():
    labels, predictions = labels_and_predictions(2, 3, classes=40)
    weights, _ = exactly(predictions, labels).expected([0, 1, 2])
    assert weights.sum() == pytest.approx(1)
    stacked = np.stack(predictions).astype(float)

    def error(w: np.ndarray) -> float:
        return float((np.tensordot(w, stacked, 1) - labels).ravel() @ (np.tensordot(w, stacked, 1) - labels).ravel())

    steps = np.linspace(0, 1, 41)
    simplex = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1]
    assert error(weights) <= min(map(error, simplex)) + 1e-3


def test_members_that_say_the_same_share_the_weight():
    labels, predictions = labels_and_predictions(3, 2)
    weights, _ = exactly([predictions[0], predictions[0], predictions[1]], labels).expected([0, 1, 2])
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)


def test_widths_that_change_nothing_cost_nothing():
    labels, predictions = labels_and_predictions(4, 3)
    held_out = exactly(predictions, labels)
    weights, gap = held_out.expected([0, 1, 2])
    assert gap == pytest.approx(held_out.gap([0, 1, 2], weights), abs=1e-12)


def test_widths_cost_what_their_divergence_costs_on_average():
    """Of one member at several widths, the power of the divergence that is nearest to what they lose."""
    labels, (prediction,) = labels_and_predictions(5, 1, videos=200)
    random = np.random.default_rng(0)
    logits = np.log(prediction / (1 - prediction))
    noises = (1.5, 0.7, 0.4, 0.1)
    widths = [1 / (1 + np.exp(-logits - noise * random.normal(size=labels.shape))) for noise in noises]
    held_out = HeldOut([prediction], widths, [0] * len(widths), labels)
    top = np.argsort(-prediction, axis=1)[:, :64]
    p = np.take_along_axis(prediction, top, axis=1)
    lost, away = [], []
    for width in widths:
        q = np.take_along_axis(width, top, axis=1)
        away.append((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1).mean())
        lost.append(gap_by_metrics(prediction, labels) - held_out.gap([len(lost)], [1.0]))
    cost, power = held_out.cost
    assert cost > 0
    error = np.square(lost - cost * np.array(away) ** power).sum()
    for other in np.linspace(0.5, 1, 11):
        raised = np.array(away) ** other
        least = np.square(lost - (raised @ lost) / (raised @ raised) * raised).sum()
        assert error <= least + 1e-9
    for place in range(len(widths)):
        expected = gap_by_metrics(prediction, labels) - cost * away[place] ** power
        assert held_out.expected([place])[1] == pytest.approx(expected, abs=1e-4)


def test_without_a_measurable_loss_the_nearer_width_is_better():
    labels, _ = labels_and_predictions(6, 1)
    perfect = np.where(labels, 0.9, 0.1)
    widths = [perfect + 0.05 * np.where(labels, -1, 1), perfect]
    held_out = HeldOut([perfect], widths, [0, 0], labels)
    assert held_out.gap([0], [1.0]) == held_out.gap([1], [1.0])
    assert held_out.expected([0])[1] < held_out.expected([1])[1]


@given(seed=st.integers(0, 10_000), size=st.integers(1, 7))
def test_least_squares_are_not_bettered_by_moving_weight(seed: int, size: int):
    random = np.random.default_rng(seed)
    root = random.normal(size=(size, size + 2))
    products, product = root @ root.T + 1e-3 * np.eye(size), random.normal(size=size)
    weights = least_squares_on_simplex(products, product)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    slope = products @ weights - product
    # From wherever there is weight to wherever else, the error must not fall.
    assert slope[weights > 0].max() <= slope.min() + 1e-6
