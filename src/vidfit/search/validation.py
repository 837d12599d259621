"""The validation videos in two halves: one selects an ensemble, the other confirms it.

A search that looks at thousands of ensembles finds some that are good on its own videos by luck. What it finds is
therefore measured on videos that it has not seen, and both figures are told. (Each member's checkpoint was chosen on
all of them, before.) Batches go to the halves in turns, so that
both hold videos of every shard.

Shapes: V videos, those of the selecting half first; C classes.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from vidfit.errors import DataError
from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch, joined
from vidfit.features.loader import Batches

BATCH_SIZE = 32
# A matrix of 10^8 weights is read once a batch, which takes longer than multiplying with it.
_JOINED = 4
# Of a larger set the first so many are taken: every candidate of every member predicts them, on a CPU in hours if more.
MAX_VIDEOS = 2048


class Validation:
    """Labelled videos in two halves.

    Arguments:
        batches: the validation videos in their shards' order, `BATCH_SIZE` at a time.

    Raises:
        DataError: there are too few videos for two halves, a half without labels, or a damaged record.
    """

    def __init__(self, batches: Batches) -> None:
        assert batches.classes is not None
        assert batches.batch_size == BATCH_SIZE
        self.batches, classes = batches, batches.classes
        self.labels_VC = self._of_all(lambda batch: batch.multi_hot(classes).numpy().astype(bool))
        self.selecting = sum(len(batch) for batch in islice(self._first(), 0, None, 2))
        if not self.labels_VC[: self.selecting].any() or not self.labels_VC[self.selecting :].any():
            raise DataError(
                f"data.validation: of its {len(self.labels_VC)} videos one half has to select an ensemble and the "
                f"other to confirm it, each with labels; give more than {BATCH_SIZE} labelled videos"
            )

    def selecting_batches(self, videos: int) -> list[Batch]:
        """The first so many videos of the selecting half, or about so many, in larger batches than they are read."""
        read = list(islice(self._first(), 0, 2 * videos // BATCH_SIZE, 2))
        return [joined(read[start : start + _JOINED]) for start in range(0, len(read), _JOINED)]

    def predictions(self, predict: Callable[[Batch], np.ndarray]) -> np.ndarray:
        """Probabilities of all videos, float16 `[V, C]`."""
        return self._of_all(lambda batch: predict(batch).astype(np.float16))

    def gaps(self, predictions_VC: np.ndarray) -> dict[str, float]:
        """GAP on the half that selects and on the half that confirms."""
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
