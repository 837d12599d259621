"""The best K segments of each class, of a stream of any length.

Memory is 8 bytes per kept segment and class, and 4 more per segment that is not sorted yet (at most a quarter of K).
For K = 100,000 and 1,000 classes that is 0.9 GB.

Shapes: S segments, C classes.
"""

from typing import Final

import numpy as np

from vidfit.errors import VidfitError
from vidfit.evaluation.metrics import DIVERGED

BEST: Final = 100_000
"""K of YouTube-8M 2019."""


class SegmentRanking:
    """The best segments of each class, by falling probability. Among equal ones the earlier segment comes first.

    Arguments:
        classes: how many, C.
        k: segments kept of each class.
    """

    def __init__(self, classes: int, k: int = BEST) -> None:
        self.k = k
        self.segments = 0
        """Segments so far. They are numbered from 0 in the order in which they came."""
        self._scores = [np.empty(0, np.float32) for _ in range(classes)]
        self._numbers = [np.empty(0, np.int32) for _ in range(classes)]
        self._unsorted: list[np.ndarray] = []

    def update(self, probabilities_SC: np.ndarray) -> None:
        """Add some segments.

        Raises:
            VidfitError: a probability is NaN.
        """
        if np.isnan(probabilities_SC).any():
            raise VidfitError(DIVERGED)
        self._unsorted.append(np.asarray(probabilities_SC, np.float32))
        self.segments += len(probabilities_SC)
        if sum(map(len, self._unsorted)) > max(self.k // 4, 1000):
            self._sort()

    def best(self, label: int) -> np.ndarray:
        """Numbers of a class's best segments, int32 of at most K, best first."""
        self._sort()
        return self._numbers[label]

    def _sort(self) -> None:
        if not self._unsorted:
            return
        new_SC = np.concatenate(self._unsorted)
        self._unsorted = []
        numbers_S = np.arange(self.segments - len(new_SC), self.segments, dtype=np.int32)
        for label, kept in enumerate(self._scores):
            scores_S = new_SC[:, label]
            # Of equal scores the kept one is earlier.
            better = scores_S > kept[-1] if len(kept) == self.k else slice(None)
            scores = np.concatenate([kept, scores_S[better]])
            order = np.argsort(-scores, kind="stable")[: self.k]
            self._scores[label] = scores[order]
            self._numbers[label] = np.concatenate([self._numbers[label], numbers_S[better]])[order]
