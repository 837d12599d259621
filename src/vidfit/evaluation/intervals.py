"""How good a timeline is: average precision over seconds, and overlap of intervals.

A video is cut into cells of one second. A label holds in a cell if a true interval contains the cell's middle. A video
lasts as long as its steps: what lies after its last step counts nowhere.

Shapes: T steps of a video, K cells, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from vidfit.features.segments import SEGMENT_SECONDS, Intervals

_ROUNDING: Final = 1e-9


class IntervalMetrics:
    """Metrics of the timelines of a stream of videos. Memory is 5 bytes per cell and class.

    Arguments:
        names: the vocabulary, C names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.videos = 0
        self.late = 0
        """True intervals that begin after their video's last step. They do not count."""
        self._scores: list[np.ndarray] = [np.empty((0, len(names)), np.float32)]
        self._holds: list[np.ndarray] = [np.empty((0, len(names)), bool)]
        self._overlaps: list[list[float]] = [[] for _ in names]
        self._occurs = np.zeros(len(names), bool)

    def update(
        self,
        probabilities_TC: np.ndarray,
        rate: float,
        true: Mapping[int, Intervals],
        found: Sequence[Intervals],
    ) -> None:
        """Add a video.

        Arguments:
            probabilities_TC: float, of each step.
            rate: steps per second.
            true: intervals by class. A class that never holds may be missing.
            found: intervals of each class, C.
        """
        scores_KC = over_cells(probabilities_TC, rate)
        duration = len(probabilities_TC) / rate
        holds_KC = np.zeros(scores_KC.shape, bool)
        middles_K = np.arange(len(scores_KC)) + 0.5
        for label, others in enumerate(found):
            spans, others = merged(true.get(label, ()), duration), merged(others, duration)
            for start, end in spans:
                holds_KC[:, label] |= (start <= middles_K) & (middles_K < end)
            if spans or others:
                self._overlaps[label].append(overlap(spans, others))
            self._occurs[label] |= bool(spans)
        self._scores.append(scores_KC)
        self._holds.append(holds_KC)
        self.videos += 1
        self.late += sum(start >= duration for intervals in true.values() for start, _ in intervals)

    def result(self) -> dict[str, Any]:
        """The figures of all videos so far.

        Returns:
            timeline_map: mean of the labels' average precisions; NaN if none holds in a cell.
            timeline_overlap: mean of the labels' overlaps; NaN if none has a true interval.
            videos, cells: how many.
            labels: of each label `name`; `cells`, in which it holds; `average_precision` of a list of all cells, None
                if it holds in none; `overlap`, None if it has no true interval. The overlap is the intersection over
                the union, in seconds, of true and found intervals: its mean over the videos with any of either. A label
                that is missed in a video, or found in vain, has overlap 0 there.
        """
        scores, holds = np.concatenate(self._scores), np.concatenate(self._holds)
        labels = []
        for index, name in enumerate(self.names):
            cells = int(holds[:, index].sum())
            precision = tied_average_precision(scores[:, index], holds[:, index]) if cells else None
            shared = float(np.mean(self._overlaps[index])) if self._occurs[index] else None
            labels.append({"name": name, "cells": cells, "average_precision": precision, "overlap": shared})
        return {
            "timeline_map": _mean([label["average_precision"] for label in labels]),
            "timeline_overlap": _mean([label["overlap"] for label in labels]),
            "videos": self.videos,
            "cells": len(scores),
            "labels": labels,
        }


def over_cells(probabilities_TC: np.ndarray, rate: float) -> np.ndarray:
    """float32 `[K, C]`: the mean probability in each second, of steps that each hold for `1 / rate` seconds.

    The last cell is one whose middle the video reaches. There is at least one.
    """
    return _means(probabilities_TC, rate, max(1, math.ceil(len(probabilities_TC) / rate - 0.5)))


def over_segments(probabilities_TC: np.ndarray, rate: float) -> np.ndarray:
    """float32 `[S, C]`: the mean probability in the segments of 5 seconds that start at 0, 5, 10, ...

    The last one may reach beyond the video's end. It has the mean of what there is.
    """
    steps = SEGMENT_SECONDS * rate
    return _means(probabilities_TC, steps, math.ceil(len(probabilities_TC) / steps - _ROUNDING))


def _means(probabilities_TC: np.ndarray, rate: float, cells: int) -> np.ndarray:
    """Mean probability in each of K cells of `rate` steps, float32 `[K, C]`. The last one ends with the video."""
    steps = len(probabilities_TC)
    ends = np.minimum(np.arange(cells + 1) * rate, steps)
    whole = np.minimum(ends.astype(int), steps - 1)
    sums_TC = np.cumsum(probabilities_TC, axis=0, dtype=np.float64)
    # The integral up to each end: all steps before, and a part of the one it lies in.
    before = np.where(whole[:, None] > 0, sums_TC[whole - 1], 0) + (ends - whole)[:, None] * probabilities_TC[whole]
    return (np.diff(before, axis=0) / np.diff(ends)[:, None]).astype(np.float32)


def merged(intervals: Intervals, duration: float) -> list[tuple[float, float]]:
    """The same time as disjoint intervals, cut at the video's end."""
    found: list[tuple[float, float]] = []
    for start, end in sorted((start, min(end, duration)) for start, end in intervals if start < duration):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def overlap(some: Intervals, others: Intervals) -> float:
    """Intersection over union of two lists of disjoint intervals, of which one is not empty."""
    shared = sum(max(0.0, min(end, last) - max(start, first)) for start, end in some for first, last in others)
    return shared / (sum(end - start for start, end in [*some, *others]) - shared)


def tied_average_precision(scores: np.ndarray, hits: np.ndarray) -> float:
    """Average precision of one list with at least one hit. Items of equal scores are found together.

    Source: scikit-learn's `average_precision_score`: the sum over thresholds of precision times the gain in recall.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan))
    found = np.cumsum(hits[order])[last]
    return float((np.diff(found, prepend=0) * found / (last + 1)).sum() / found[-1])


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
