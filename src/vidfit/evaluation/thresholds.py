"""Where a label's threshold comes from: the probability at which it counts as present, chosen on validation videos.

Every threshold is one of 255 levels, evenly spaced in their logits: `LEVELS[i] = sigmoid((i - 127) / 16)`. So a packed
file needs one byte per label, and counting how many videos reach each level is enough to find the best one exactly.

A label with few videos must not get a threshold fitted to noise. So 100 positives of the average label are added to
each label's own. A rare label gets nearly the common threshold, a frequent one nearly its own. Chosen on one half of
the validation videos and measured on the other, micro F1 / macro F1:

| added positives | clips, 102 videos | AudioSet, 1,385 | YouTube-8M, 2,321 |
|---|---|---|---|
| threshold 0.5 for all | 0.734 / 0.717 | 0.424 / 0.178 | 0.563 / 0.158 |
| none: each label alone | 0.770 / 0.770 | 0.229 / 0.262 | 0.249 / 0.230 |
| 10 | 0.794 / 0.793 | 0.461 / 0.278 | 0.653 / 0.235 |
| 100 | 0.805 / 0.802 | 0.471 / 0.280 | 0.657 / 0.235 |
| no end: one for all | 0.805 / 0.801 | 0.475 / 0.279 | 0.654 / 0.235 |

Shapes: B videos, C classes, L levels.
"""

import base64
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidfit.evaluation.metrics import multi_hot

LEVELS: Final = (1 / (1 + np.exp((127 - np.arange(255)) / 16))).astype(np.float32)
"""The thresholds that there are, float32 `[L]`, rising from 0.0004 to 0.9996. 0.5 is one of them."""
DEFAULT: Final = 0.5
"""The threshold of a label where none was chosen."""
_ADDED: Final = 100
# Sums of floats may differ in their last bits from one machine to another.
_EQUAL: Final = 1e-9


class Counts(NamedTuple):
    """What each label would get at each level, float64.

    Attributes:
        right_CL, wrong_CL: videos that reach the level, with the label and without it.
        positives_C: videos with the label.
    """

    right_CL: np.ndarray
    wrong_CL: np.ndarray
    positives_C: np.ndarray


class LevelCounts:
    """Counts how many videos reach each level, over a stream of batches. Memory is 2 kB per label.

    Arguments:
        classes: size of the vocabulary, C.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        # Videos by the number of levels they reach: all, and those that have the label.
        self._videos = np.zeros((classes, len(LEVELS) + 1), np.int32)
        self._hits = np.zeros((classes, len(LEVELS) + 1), np.int32)

    def update(self, probabilities: np.ndarray, labels: np.ndarray, label_counts: NDArray[np.integer]) -> None:
        """Add a batch.

        Arguments:
            probabilities: `[B, C]` float.
            labels: class indices of all videos, concatenated, int64.
            label_counts: how many of them belong to each video, int64 `[B]`.
        """
        reached = np.searchsorted(LEVELS, probabilities.astype(np.float32), side="right")
        places = reached + np.arange(self._classes) * (len(LEVELS) + 1)
        positive = multi_hot(labels, label_counts, self._classes)
        for counts, some in ((self._videos, places.ravel()), (self._hits, places[positive])):
            counts += np.bincount(some, minlength=counts.size).reshape(counts.shape).astype(np.int32)

    def merge(self, later: "LevelCounts") -> None:
        """Add the videos of another."""
        self._videos += later._videos
        self._hits += later._hits

    def result(self) -> Counts:
        """The counts of all videos so far."""
        reach_CL, right_CL = (
            counts[:, ::-1].cumsum(axis=1, dtype=np.float64)[:, ::-1] for counts in (self._videos, self._hits)
        )
        return Counts(right_CL[:, 1:], (reach_CL - right_CL)[:, 1:], right_CL[:, 0])


def choose(counts: Counts, precision: float | None = None) -> np.ndarray:
    """The level of each label, uint8 `[C]`: the one with the best F1.

    Arguments:
        counts: of labelled videos; one has a label.
        precision: take the lowest level with this precision instead. A label that reaches it at no level gets the
            highest.
    """
    right_CL, wrong_CL, positives_C = _with_average_label(counts)
    if precision is None:
        return _middle_of_best(2 * right_CL / (right_CL + wrong_CL + positives_C[:, None]))
    enough_CL = right_CL >= precision * (right_CL + wrong_CL) - _EQUAL
    enough_CL &= right_CL > 0
    enough_CL[:, -1] = True
    return enough_CL.argmax(axis=1).astype(np.uint8)


def nearest(thresholds_C: np.ndarray) -> np.ndarray:
    """The level that is nearest to each threshold, uint8 `[C]`."""
    return np.abs(thresholds_C[:, None] - LEVELS).argmin(axis=1).astype(np.uint8)


def encode(levels_C: np.ndarray) -> str:
    """Levels as a packed file's metadata hold them: base64 of a byte per label, the level's place plus 1."""
    return base64.b64encode((levels_C.astype(int) + 1).astype(np.uint8).tobytes()).decode()


def decode(text: str, classes: int) -> np.ndarray | None:
    """Thresholds float32 `[C]` from a packed file's metadata. None where they were not chosen.

    Raises:
        ValueError: the text is not base64 of C bytes.
    """
    stored_C = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(stored_C) != classes:
        raise ValueError(f"it holds {len(stored_C)} thresholds for {classes} labels")
    return LEVELS[stored_C.astype(int) - 1] if stored_C.all() else None


def not_chosen(classes: int) -> str:
    """What stands in a packed file until its thresholds are chosen; as long as they will be."""
    return base64.b64encode(bytes(classes)).decode()


def _with_average_label(counts: Counts) -> Counts:
    """Each label's counts, and `_ADDED` positives of the average label."""
    share = _ADDED / counts.positives_C.sum()
    return Counts(
        counts.right_CL + share * counts.right_CL.sum(axis=0),
        counts.wrong_CL + share * counts.wrong_CL.sum(axis=0),
        counts.positives_C + _ADDED,
    )


def _middle_of_best(scores_CL: np.ndarray) -> np.ndarray:
    """Place of the highest score, uint8 `[C]`. Among equal neighbours the middle one, which is farthest from others."""
    best_CL = scores_CL >= scores_CL.max(axis=1, keepdims=True) - _EQUAL
    first_C = best_CL.argmax(axis=1)
    beyond_CL = ~best_CL & (np.arange(scores_CL.shape[1]) > first_C[:, None])
    after_C = np.where(beyond_CL.any(axis=1), beyond_CL.argmax(axis=1), scores_CL.shape[1])
    return ((first_C + after_C - 1) // 2).astype(np.uint8)
