"""Reliability over batches against formulas on everything at once."""

from itertools import pairwise

import numpy as np
import pytest

from vidfit.evaluation.reliability import EDGES, Reliability


def test_batches_add_up_to_the_formula():
    random = np.random.default_rng(3)
    probabilities_VC = random.beta(0.1, 2, size=(300, 7)).astype(np.float32)
    positive_VC = random.random((300, 7)) < probabilities_VC**2
    reliability = Reliability()
    for part in np.split(np.arange(300), [1, 128, 256]):
        videos, labels = np.nonzero(positive_VC[part])
        reliability.update(probabilities_VC[part], labels, np.bincount(videos, minlength=len(part)))

    expected, error = [], 0.0
    for low, high in pairwise(EDGES):
        inside = (probabilities_VC >= low) & ((probabilities_VC < high) | (high == 1))
        if inside.any():
            mean, share = probabilities_VC[inside].mean(dtype=np.float64), positive_VC[inside].mean()
            expected.append((low, high, mean, positive_VC[inside].sum(), inside.sum()))
            error += inside.sum() / probabilities_VC.size * abs(mean - share)
    found = [tuple(row[key] for key in ("low", "high", "mean", "hits", "count")) for row in reliability.bins()]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert reliability.expected_calibration_error() == pytest.approx(error)
    assert error > 0.01


def test_edges_belong_to_the_bin_above_and_what_passes_one_to_the_last():
    reliability = Reliability()
    reliability.update(
        np.array([[0.0, 0.5, 1.0, np.nextafter(np.float32(1), np.float32(2))]]), np.array([3]), np.ones(1, int)
    )
    rows = [(row["low"], row["count"], row["hits"]) for row in reliability.bins()]
    assert rows == [(0, 1, 0), (0.5, 1, 0), (0.9, 2, 1)]


def test_nothing_has_no_bins_and_no_error():
    assert Reliability().bins() == []
    assert Reliability().expected_calibration_error() == 0
