"""What all ranks together read in an epoch: as many batches each, and which labels these have."""

from collections.abc import Iterator
from dataclasses import astuple, replace

import torch

from vidfit import distributed
from vidfit.features.batch import Batch, no_videos
from vidfit.features.loader import Batches, NoRecordsError
from vidfit.features.skipped import NOTHING, Skipped

_COUNTED_VIDEOS = 20_000


def in_step(batches: Batches, epoch: int, start: int = 0, skipped: Skipped = NOTHING) -> Iterator[Batch]:
    """The batches of an epoch, as many on each rank; empty ones where this rank's share is at an end.

    Their `skipped` is that of all ranks together.

    Arguments:
        start: how many to leave out at the beginning.
        skipped: what was left out in these, on all ranks.

    Raises:
        DataError: a record is not what it should be, or there is none on any rank.
    """
    own, empty = batches.epoch(epoch, start, skipped), no_videos(batches.spec)
    while True:
        batch = next(own, None)
        told = distributed.every(batch is not None, len(batch or empty), *astuple((batch or empty).skipped))
        more, videos, *counts = (sum(column) for column in zip(*told, strict=True))
        left_out = Skipped(*counts)
        if not more:
            return
        if not videos:
            raise NoRecordsError(batches.shards, left_out)
        yield replace(batch or empty, skipped=left_out)


def label_frequencies(batches: Batches, classes: int) -> torch.Tensor:
    """Share of the training videos that have each label, float32 `[C]`, from the first 20,000 of them.

    Half a video is added to both sides, so that no share is 0 or 1.
    """
    counts_C, videos = label_counts(batches, classes)
    return (counts_C + 0.5) / (videos + 1)


def label_counts(batches: Batches, classes: int) -> tuple[torch.Tensor, int]:
    """How many of the first 20,000 training videos have each label, float32 `[C]`, and how many videos these were."""
    counts_C, videos = torch.zeros(classes), 0
    for batch in in_step(batches, 0):
        counts_C += torch.bincount(batch.labels, minlength=classes)
        videos += distributed.total(len(batch))
        if videos >= _COUNTED_VIDEOS:
            break
    distributed.add_([counts_C])
    return counts_C, videos
