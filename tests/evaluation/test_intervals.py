"""Metrics of timelines against formulas in float64, computed the slow way."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vidfit.evaluation.intervals import IntervalMetrics, merged, over_cells, overlap, tied_average_precision

Floats = NDArray[np.float64]


def average_precision(scores: Floats, hits: NDArray[np.bool_]) -> float:
    """The sum over thresholds, from the highest, of precision times the gain in recall."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        precision, recall = hits[found].sum() / found.sum(), hits[found].sum() / hits.sum()
        total, before = total + precision * (recall - before), recall
    return total


@pytest.mark.parametrize("levels", [3, 20, 10**9], ids=["many ties", "some ties", "no ties"])
def test_average_precision_is_that_of_the_formula(levels: int):
    random = np.random.default_rng(levels)
    for _ in range(20):
        scores, hits = random.integers(levels, size=60) / levels, random.random(60) < 0.3
        expected = average_precision(scores, hits)
        assert tied_average_precision(scores, hits) == pytest.approx(expected, rel=1e-12)


def test_equal_scores_have_the_precision_of_chance():
    assert tied_average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25
    assert tied_average_precision(np.zeros(4), np.array([False, False, False, True])) == 0.25


@pytest.mark.parametrize("rate", [0.3, 0.5, 1, 1.5, 2, 25])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_a_cell_has_the_mean_over_its_second(rate: float, steps: int):
    probabilities_TC = np.random.default_rng(steps).random((steps, 2))
    cells_KC = over_cells(probabilities_TC, rate)
    # The cells whose middles lie in the video, but at least one.
    assert len(cells_KC) == max(1, sum(cell + 0.5 < steps / rate - 1e-9 for cell in range(1000)))
    for cell, found_C in enumerate(cells_KC):
        times = np.arange(cell + 0.00005, min(cell + 1, steps / rate), 0.0001)
        expected_C = probabilities_TC[(times * rate).astype(int)].mean(axis=0)
        np.testing.assert_allclose(found_C, expected_C, atol=2e-3)


def test_at_one_step_a_second_cells_are_steps():
    probabilities_TC = np.random.default_rng(1).random((9, 3)).astype(np.float32)
    np.testing.assert_array_equal(over_cells(probabilities_TC, 1), probabilities_TC)


def test_intervals_are_merged_and_cut_at_the_end():
    assert merged([(3, 4), (0, 2), (1, 1.5), (2, 2.5), (5, 9)], 6) == [(0, 2.5), (3, 4), (5, 6)]
    assert merged([(6, 7)], 6) == []


def test_overlap_is_the_shared_time_over_all_time():
    assert overlap([(0, 2), (4, 6)], [(1, 5)]) == pytest.approx(2 / 6)
    assert overlap([(0, 2)], [(0, 2)]) == 1
    assert overlap([(0, 2)], []) == overlap([(0, 2)], [(2, 3)]) == 0


def intervals(random: np.random.Generator, duration: int) -> list[tuple[float, float]]:
    """Up to three, with ends at tenths of a second; they may overlap and reach beyond the end."""
    starts = random.integers(10 * duration, size=random.integers(4))
    return [(start / 10, (start + length) / 10) for start in starts for length in random.integers(1, 60, size=1)]


def tenths(spans: list[tuple[float, float]], duration: int) -> NDArray[np.bool_]:
    """Whether one holds, in each tenth of a second."""
    middles = np.arange(10 * duration) / 10 + 0.05
    return np.any(
        [np.zeros(len(middles), bool), *((start < middles) & (middles < end) for start, end in spans)], axis=0
    )


def test_the_figures_of_many_videos_are_those_of_the_formulas():
    random, names = np.random.default_rng(3), ["a", "b", "never"]
    metrics = IntervalMetrics(names)
    scores: list[list[float]] = [[], [], []]
    holds: list[list[bool]] = [[], [], []]
    overlaps: list[list[float]] = [[], [], []]
    for _ in range(30):
        duration = int(random.integers(2, 12))
        probabilities_TC = random.random((duration, 3)).astype(np.float32)
        true = {0: intervals(random, duration), 1: intervals(random, duration)}
        found = [intervals(random, duration) for _ in names]
        metrics.update(probabilities_TC, 1, true, found)
        for label in range(3):
            spans = true.get(label, [])
            scores[label] += probabilities_TC[:, label].tolist()
            holds[label] += [any(start <= second + 0.5 < end for start, end in spans) for second in range(duration)]
            one, other = tenths(spans, duration), tenths(found[label], duration)
            if (one | other).any():
                overlaps[label].append((one & other).sum() / (one | other).sum())
    result = metrics.result()
    precisions = [average_precision(np.array(scores[label]), np.array(holds[label])) for label in (0, 1)]
    assert result["timeline_map"] == pytest.approx(np.mean(precisions))
    assert result["timeline_overlap"] == pytest.approx(np.mean([np.mean(overlaps[label]) for label in (0, 1)]))
    assert (result["videos"], result["cells"]) == (30, len(scores[0]))
    for label in (0, 1):
        own = result["labels"][label]
        assert (own["name"], own["cells"]) == (names[label], sum(holds[label]))
        assert own["average_precision"] == pytest.approx(precisions[label])
        assert own["overlap"] == pytest.approx(np.mean(overlaps[label]))
    assert result["labels"][2] == {"name": "never", "cells": 0, "average_precision": None, "overlap": None}


def test_what_begins_after_the_end_is_counted_apart():
    metrics = IntervalMetrics(["a"])
    metrics.update(np.ones((2, 1)), 1, {0: [(2.0, 3.0), (5.0, 6.0), (0.6, 1.4)]}, [[]])
    assert metrics.late == 2
    # Its middle is no second's.
    assert math.isnan(metrics.result()["timeline_map"])
    assert metrics.result()["labels"][0]["overlap"] == 0
