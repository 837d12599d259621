"""The validation videos in two halves: one selects an ensemble, the other confirms it.

A search through thousands of ensembles finds some that are good on its own videos by luck. So the result is measured on
videos that it has not seen, and both figures are reported. (The members' checkpoints were chosen on all of them.)
Batches alternate between the halves, so both have videos of every shard.

Shapes: V videos, the selecting half first; C classes.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from vidfit.errors import DataError
from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch, joined
from vidfit.features.loader import Batches

BATCH_SIZE = 32
# Batches joined for measuring bit widths. Reading a matrix of 10^8 weights per batch takes longer than its product.
_JOINED = 4
# Videos used of a larger set. Every candidate of every member predicts them all, which would take hours on a CPU.
MAX_VIDEOS = 2048


class Validation:
    """Labelled videos in two halves.

    Arguments:
        batches: the validation videos in their shards' order, `BATCH_SIZE` at a time.

    Raises:
        DataError: there are too few videos for two halves, a half has no labels, or a record is corrupt.
    """

    def __init__(self, batches: Batches) -> None:
        assert batches.classes is not None
        assert batches.batch_size == BATCH_SIZE
        self.batches, classes = batches, batches.classes
        self.labels_VC = self._of_all(lambda batch: batch.multi_hot(classes).numpy().astype(bool))
        self.selecting = sum(len(batch) for batch in islice(self._first(), 0, None, 2))
        if not self.labels_VC[: self.selecting].any() or not self.labels_VC[self.selecting :].any():
            raise DataError(
                f"data.validation: has {len(self.labels_VC)} videos; one half selects an ensemble and the other "
                f"confirms it, so both need labels: give more than {BATCH_SIZE} labelled videos"
            )

    def selecting_batches(self, videos: int) -> list[Batch]:
        """About the first `videos` videos of the selecting half, in larger batches than they are read."""
        read = list(islice(self._first(), 0, 2 * videos // BATCH_SIZE, 2))
        return [joined(read[start : start + _JOINED]) for start in range(0, len(read), _JOINED)]

    def predictions(self, predict: Callable[[Batch], np.ndarray]) -> np.ndarray:
        """Probabilities of all videos, float16 `[V, C]`."""
        return self._of_all(lambda batch: predict(batch).astype(np.float16))

    def gaps(self, predictions_VC: np.ndarray) -> dict[str, float]:
        """GAP on the selecting and on the confirming half."""
        halves = {"gap_selection": slice(None, self.selecting), "gap_confirmation": slice(self.selecting, None)}
        found = {}
        for name, rows in halves.items():
            metrics = Metrics(self.labels_VC.shape[1])
            metrics.update(predictions_VC[rows].astype(np.float32), self.labels_VC[rows])
            found[name] = metrics.result()["gap"]
        return found

    def _first(self) -> Iterator[Batch]:
        return islice(self.batches, MAX_VIDEOS // BATCH_SIZE)

    def _of_all(self, function: Callable[[Batch], np.ndarray]) -> np.ndarray:
        halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for number, batch in enumerate(self._first()):
            halves[number % 2].append(function(batch))
        return np.concatenate([*halves[0], *halves[1]])
