"""MAP@K of rated segments, as YouTube-8M 2019 counts it.

1. The segments of each class are ranked. The list is cut at K.
2. Segments that nobody rated for the class are dropped. Whether the label holds there is not known.
3. `AP = sum over the ranks i that are left of (positives up to i) / i, where i is a positive, / N`. N counts all rated
   positives of the class, also those that are not in the list.
4. MAP@K is the mean over classes.

Kept ratings 1, 0, 1 of two positives: (1/1 + 2/3) / 2 = 0.8333. A class without a rated positive has no average
precision, so it is left out. The official program stops there.

Shapes: S segments, C classes.

Source: segment_eval_inference.py of the YouTube-8M starter code.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from vidfit.evaluation.metrics import average_precision
from vidfit.evaluation.ranking import BEST, SegmentRanking
from vidfit.features.segments import SEGMENT_SECONDS, RatedSegments

_UNRATED: Final = -1


class SegmentMetrics:
    """MAP@K of a stream of videos. Memory is that of `SegmentRanking`, and 9 bytes per rating.

    Arguments:
        names: the vocabulary, C names.
        k: segments kept of each class.
    """

    def __init__(self, names: Sequence[str], k: int = BEST) -> None:
        self.names = names
        self.off_grid = 0
        """Ratings of segments that are not in the list, because they do not start at 0, 5, 10, ... of their video."""
        self._ranking = SegmentRanking(len(names), k)
        self._positives = np.zeros(len(names), np.int64)
        self._rated: list[np.ndarray] = [np.empty((0, 3), np.int32)]

    def update(self, probabilities_SC: np.ndarray, rated: RatedSegments) -> None:
        """Add a video.

        Arguments:
            probabilities_SC: of its segments, those that start at 0, 5, 10, ...
            rated: by people. Of several ratings of a label in a segment the last counts.
        """
        first = self._ranking.segments
        self._ranking.update(probabilities_SC)
        backwards = (rated.starts * len(self.names) + rated.labels)[::-1]
        last = len(backwards) - 1 - np.unique(backwards, return_index=True)[1]
        starts, labels, holds = rated.starts[last], rated.labels[last], rated.scores[last] > 0
        self._positives += np.bincount(labels[holds], minlength=len(self.names))
        numbers = starts // SEGMENT_SECONDS
        ranked = (starts % SEGMENT_SECONDS == 0) & (numbers < len(probabilities_SC))
        self.off_grid += int((~ranked).sum())
        rows = np.stack([labels, first + numbers, holds], axis=1)[ranked]
        self._rated.append(rows.astype(np.int32))

    def result(self) -> dict[str, Any]:
        """The figures of all videos so far.

        Returns:
            map_at_k: mean of the average precisions; NaN if no segment is rated as positive.
            k, segments: K, and how many segments were ranked.
            labels: of each rated label `name`, `rated`, `positive` (how many) and `average_precision`, None without
                positives.
        """
        rated = np.concatenate(self._rated)
        rated = rated[np.argsort(rated[:, 0], kind="stable")]
        ends = np.searchsorted(rated[:, 0], np.arange(len(self.names) + 1))
        labels = []
        for label, name in enumerate(self.names):
            _, numbers, holds = rated[ends[label] : ends[label + 1]].T
            positives = int(self._positives[label])
            if len(numbers) or positives:
                precision = self._average_precision(label, numbers, holds) if positives else None
                labels.append(
                    {"name": name, "rated": len(numbers), "positive": positives, "average_precision": precision}
                )
        known = [label["average_precision"] for label in labels if label["average_precision"] is not None]
        mean = sum(known) / len(known) if known else math.nan
        return {"map_at_k": mean, "k": self._ranking.k, "segments": self._ranking.segments, "labels": labels}

    def _average_precision(self, label: int, numbers: np.ndarray, holds: np.ndarray) -> float:
        rating = np.full(self._ranking.segments, _UNRATED, np.int8)
        rating[numbers] = holds
        kept = rating[self._ranking.best(label)]
        hits = kept[kept != _UNRATED]
        return average_precision(-np.arange(len(hits)), hits, int(self._positives[label]))
