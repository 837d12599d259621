"""How good decisions are: precision, recall and F1 of labels that are given from a threshold on.

Shapes: B videos, C classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidfit.evaluation.metrics import multi_hot


class Decisions:
    """Right and wrong decisions over a stream of batches.

    Arguments:
        thresholds_C: float32; a label is given to a video if its probability is not below its threshold.
    """

    def __init__(self, thresholds_C: np.ndarray) -> None:
        self._thresholds_C = thresholds_C
        self._positives, self._given, self._right = np.zeros((3, len(thresholds_C)), np.int64)

    def update(self, probabilities: np.ndarray, labels: np.ndarray, label_counts: NDArray[np.integer]) -> None:
        """Add a batch (see `Metrics.update`)."""
        given = probabilities >= self._thresholds_C
        positive = multi_hot(labels, label_counts, len(self._thresholds_C))
        self._positives += positive.sum(axis=0)
        self._given += given.sum(axis=0)
        self._right += (given & positive).sum(axis=0)

    def merge(self, later: "Decisions") -> None:
        """Add the videos of another with the same thresholds."""
        self._positives += later._positives
        self._given += later._given
        self._right += later._right

    def result(self) -> dict[str, float]:
        """The figures of all videos so far.

        Returns:
            micro_precision: of all labels given, the fraction that is right; 0 if none is given.
            micro_recall: of all true labels, the fraction that is given.
            micro_f1: F1 of the decisions about all labels together.
            macro_f1: mean of the labels' F1. Labels that no video has are left out, as in `map`.
        """
        both = self._given + self._positives
        has_positives = self._positives > 0
        f1 = 2 * self._right[has_positives] / both[has_positives]
        right, given, positives = (int(it.sum()) for it in (self._right, self._given, self._positives))
        return {
            "micro_precision": right / max(given, 1),
            "micro_recall": right / max(positives, 1),
            "micro_f1": 2 * right / max(given + positives, 1),
            "macro_f1": float(f1.mean()) if len(f1) else float("nan"),
        }

    def labels(self) -> list[dict[str, Any]]:
        """Of each label `threshold`, `precision` (None if never given) and `recall` (None if no video has it)."""
        columns = (self._thresholds_C, self._positives, self._given, self._right)
        return [
            {
                "threshold": threshold,
                "precision": right / given if given else None,
                "recall": right / positives if positives else None,
            }
            for threshold, positives, given, right in zip(*(it.tolist() for it in columns), strict=True)
        ]
