"""Which members are chosen: never above the budget, never below the best that fits alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidfit.fitting.choice import choose, odds_factor, scale_odds
from vidfit.search.blend import global_average_precision

LABELS_VC = np.random.default_rng(0).random((60, 6)) < 0.3


def member(seed: int, skill: float) -> np.ndarray:
    """Probabilities, the nearer to the labels the more skilled."""
    noise = np.random.default_rng(seed).normal(size=LABELS_VC.shape)
    return (1 / (1 + np.exp(-(skill * (2 * LABELS_VC - 1) + noise)))).astype(np.float32)


def gap(predictions: np.ndarray) -> float:
    return global_average_precision(predictions, LABELS_VC, int(LABELS_VC.sum()))


@given(
    st.lists(st.tuples(st.floats(-1, 2), st.integers(1, 100)), min_size=1, max_size=6),
    st.integers(1, 250),
)
def test_members_fit_and_are_no_worse_than_the_best_alone(given_members: list[tuple[float, int]], budget: int):
    predictions = {f"m{place}": member(place, skill) for place, (skill, _) in enumerate(given_members)}
    bytes_of = {f"m{place}": size for place, (_, size) in enumerate(given_members)}
    weights, found = choose(predictions, LABELS_VC, bytes_of, budget)
    alone = [gap(predictions[name]) for name, size in bytes_of.items() if size <= budget]
    if not alone:
        assert weights == {}
        return
    assert sum(bytes_of[name] for name in weights) <= budget
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) > 0
    assert found >= max(alone) - 1e-6
    assert gap(np.sum([weight * predictions[name] for name, weight in weights.items()], axis=0)) == pytest.approx(
        found, abs=1e-4
    )


def test_members_that_err_differently_are_averaged():
    predictions = {"a": member(1, 1.0), "b": member(2, 1.0), "same": member(1, 1.0)}
    weights, found = choose(predictions, LABELS_VC, dict.fromkeys(predictions, 1), 10)
    assert len(weights) == 2
    assert "b" in weights
    assert found > max(map(gap, predictions.values())) + 0.01


def test_a_member_that_knows_nothing_is_better_than_none():
    wrong = member(1, -9.0)
    rare = np.zeros((2000, 30), bool)
    rare[0, 0] = True
    assert choose({"wrong": wrong}, LABELS_VC, {"wrong": 1}, 1)[0] == pytest.approx({"wrong": 1})
    scores = np.full(rare.shape, 0.5, np.float32)
    scores[0, 0] = 0.0
    assert choose({"worst": scores}, rare, {"worst": 1}, 1)[0] == pytest.approx({"worst": 1})


def drawn(factor: float, videos: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of odds that are `1 / factor` of the labels' own, float64 `[V, C]`, and labels."""
    random = np.random.default_rng(0)
    true_VC = 1 / (1 + np.exp(-random.normal(-1, 2, (videos, 5))))
    return scale_odds(true_VC, 1 / factor), random.random((videos, 5)) < true_VC


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_the_factor_of_unsure_probabilities_is_found(factor: float):
    assert odds_factor(*drawn(factor, 4000)) == pytest.approx(factor, rel=0.1)


def test_calibrated_probabilities_stay_as_they_are():
    assert odds_factor(*drawn(1.0, 4000)) == 1


def test_scaling_odds_multiplies_them_and_keeps_the_order():
    p = np.linspace(0, 1, 1001)
    scaled = scale_odds(p, 2.5)
    odds, before = (it[:-1] / (1 - it[:-1]) for it in (scaled, p))
    np.testing.assert_allclose(odds, 2.5 * before)
    assert (np.diff(scaled) > 0).all()
    assert (scaled[0], scaled[-1]) == (0, 1)
