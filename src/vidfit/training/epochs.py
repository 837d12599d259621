"""The batches that all ranks read together: as many on each rank, epoch after epoch; and the labels in them."""

from collections.abc import Iterator
from dataclasses import astuple, replace
from itertools import chain, pairwise

import torch

from vidfit import distributed
from vidfit.features.batch import Batch, no_videos
from vidfit.features.loader import Batches, NoRecordsError
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.training.state import Position, TrainingState

_COUNTED_VIDEOS = 20_000


def remaining(
    batches: Batches, state: TrainingState, steps: int | None, epochs: int | None
) -> Iterator[tuple[Batch, Position]]:
    """A phase's batches from where `state` stands, until it is done.

    Arguments:
        batches: this rank's.
        state: the caller updates it after each batch.
        steps: the step that ends the phase; or ...
        epochs: ... the number of epochs that end it.
    """
    epoch, trained, skipped = state.epoch, state.batch, Skipped(state.passed, state.passed_bytes)
    while not state.done:
        # Hold each batch back until the next one is read, to know which is the epoch's last.
        pairs = pairwise(chain(in_step(batches, epoch, trained, skipped), [None]))
        for number, (batch, following) in enumerate(pairs, start=trained + 1):
            assert batch is not None
            skipped += batch.skipped
            last = following is None and epoch + 1 == epochs
            yield batch, Position(epoch, number, skipped, last or state.step + 1 == steps)
            if state.done:
                return
        epoch, trained, skipped = epoch + 1, 0, NOTHING


def in_step(batches: Batches, epoch: int, start: int = 0, skipped: Skipped = NOTHING) -> Iterator[Batch]:
    """The batches of an epoch, as many on each rank. A rank whose own are used up gives empty ones.

    The `skipped` of a batch counts all ranks.

    Arguments:
        start: number of batches to leave out at the beginning.
        skipped: what was skipped in these, on all ranks.

    Raises:
        DataError: a record is damaged, or no rank has any.
    """
    own, empty = batches.epoch(epoch, start, skipped), no_videos(batches.spec)
    while True:
        batch = next(own, None)
        told = distributed.all_gather(batch is not None, len(batch or empty), *astuple((batch or empty).skipped))
        more, videos, *counts = (sum(column) for column in zip(*told, strict=True))
        left_out = Skipped(*counts)
        if not more:
            return
        if not videos:
            raise NoRecordsError(batches.shards, left_out, batches.clips)
        yield replace(batch or empty, skipped=left_out)


def label_frequencies(batches: Batches, classes: int) -> torch.Tensor:
    """Fraction of the training videos that have each label, float32 `[C]`, from the first 20,000 videos.

    Half a video is added to both sides, so that no fraction is 0 or 1.
    """
    counts_C, videos = label_counts(batches, classes)
    return (counts_C + 0.5) / (videos + 1)


def label_counts(batches: Batches, classes: int) -> tuple[torch.Tensor, int]:
    """How many of the first 20,000 training videos have each label, float32 `[C]`, and the number of videos counted."""
    counts_C, videos = torch.zeros(classes), 0
    for batch in in_step(batches, 0):
        counts_C += torch.bincount(batch.labels, minlength=classes)
        videos += distributed.all_sum(len(batch))
        if videos >= _COUNTED_VIDEOS:
            break
    distributed.all_reduce_([counts_C])
    return counts_C, videos
