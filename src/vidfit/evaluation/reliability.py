"""Whether probabilities mean what they say: of all that a model gives 0.3, three in ten should be true.

Every (video, class) pair counts, in bins by its probability. You add batches, and can read the figures at any time.
Memory does not grow. With hundreds of classes nearly all probabilities are tiny, so the bins are narrower near zero.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vidfit.evaluation.metrics import multi_hot

EDGES: Final = np.array([0, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2, *np.arange(1, 11) / 10])
"""Of 15 bins; a bin holds its lower edge, the last one both."""


class Reliability:
    """Probabilities and what came true of them, over a stream of batches."""

    def __init__(self) -> None:
        bins = len(EDGES) - 1
        self._counts = np.zeros(bins, np.int64)
        self._hits = np.zeros(bins, np.int64)
        self._summed = np.zeros(bins)

    def update(self, probabilities: np.ndarray, labels: np.ndarray, label_counts: NDArray[np.integer]) -> None:
        """Takes in a batch.

        Arguments:
            probabilities: `[B, C]` float, 0 to 1.
            labels: class indices of all videos one after another, int64 `[L]`.
            label_counts: how many of them belong to each video, int64 `[B]`.
        """
        positive = multi_hot(labels, label_counts, probabilities.shape[1])
        bins = len(self._counts)
        # A weighted average of float32 may be a little above 1.
        of_pair = np.searchsorted(EDGES[1:-1], probabilities.ravel(), side="right")
        self._counts += np.bincount(of_pair, minlength=bins)
        self._hits += np.bincount(of_pair[positive.ravel()], minlength=bins)
        self._summed += np.bincount(of_pair, weights=probabilities.ravel(), minlength=bins)

    def merge(self, later: "Reliability") -> None:
        """Takes in what another took in."""
        self._counts += later._counts
        self._hits += later._hits
        self._summed += later._summed

    def bins(self) -> list[dict[str, float]]:
        """The bins that are not empty, lowest first.

        Returns:
            low, high: the bin's edges.
            mean: mean of its probabilities.
            hits: how many of its pairs are true.
            count: how many it has.
        """
        filled = np.flatnonzero(self._counts)
        return [
            {
                "low": float(EDGES[i]),
                "high": float(EDGES[i + 1]),
                "mean": float(self._summed[i] / self._counts[i]),
                "hits": int(self._hits[i]),
                "count": int(self._counts[i]),
            }
            for i in filled
        ]

    def expected_calibration_error(self) -> float:
        """Mean over all pairs of the distance, in a pair's bin, between mean probability and share of hits.

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with the bins above.
        """
        return float(np.abs(self._summed - self._hits).sum() / max(self._counts.sum(), 1))
