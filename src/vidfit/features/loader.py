"""Shards to ragged batches: shuffled, seeded, split over ranks and workers without a record lost or repeated.

TFRecord files are shuffled in two ways: shards come in random order, and videos are drawn from a buffer. If
neighbouring records of a shard are alike, the buffer must be large. A cache needs no buffer: its order is a permutation
of all videos, so an epoch can start at any batch. Memory holds the buffer and a few batches, for any number of shards.
Rare labels can be read more often, and frequent ones less (`copies`).

Workers are threads. Each makes its own batches, so an epoch may end in one smaller batch per worker. Reading, copying
and NumPy let other threads compute. Processes would have to share memory, and a batch would cost three times as much
(benchmarks/LOG.md). Checksums and Python code run in one thread at a time. So all workers together read at most about
10,000 records of 300 frames per second.

Several ranks read like that many times the workers (`of_rank`). The n-th batches of all ranks together are the n-th
batch of the whole; a rank may have fewer of them.

- Records of a cache can be read in any order. Ranks take turns in it, so the whole is the same for any number of ranks.
- TFRecord files are read from end to end, each by one worker of one rank, because disks and networks read ahead only
  then. So another number of ranks or workers gives another order of the videos, which is just as random.

Legend: C classes.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidfit.errors import DataError
from vidfit.features.batch import Batch, Filling, no_videos
from vidfit.features.buffer_pool import Memory
from vidfit.features.cache import CacheFiles, count_cached, is_cached
from vidfit.features.clips import Clips
from vidfit.features.example import read_examples
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import check_size, share_of, size_of
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.features.spec import FeatureSpec, Video
from vidfit.features.tfrecord import CorruptRecordError


class NoRecordsError(DataError):
    """Shards without a single record that can be used, or without a rated segment where clips are read."""

    def __init__(self, shards: Sequence[Path], skipped: Skipped, clips: Clips | None = None) -> None:
        if clips:
            what = "no rated segment; give shards with ratings, or a table of intervals"
        else:
            what = f"no record that can be read ({skipped or 'they are empty'}); check the files"
        super().__init__(f"{shards[0]} and {len(shards) - 1} more shards hold {what}")
        self.skipped = skipped


def balanced_copies(counts_C: Tensor, power: float) -> Tensor:
    """How often to read a video for the sake of each label: `(median count / count) ** power`.

    Arguments:
        counts_C: float32, how many videos have each label; the median is that of the labels that occur.
        power: 0 is no balancing; 1 makes labels equally frequent, as far as the limits and videos of several labels let
            it.

    Returns:
        float32 `[C]` in [1/8, 8], for `Batches(copies=...)`. Without the limits, a label of one video would fill epochs
        with it, and a frequent one would hardly be read.
    """
    median = counts_C[counts_C > 0].quantile(0.5)
    return (median / counts_C).pow(power).clamp(1 / 8, 8)


class Batches:
    """The batches of a set of shards, any number of epochs of them; iterating gives epoch 0.

    Arguments:
        shards: TFRecord files or those of a cache (see `expand_shards`).
        spec: modalities to read.
        classes: labels must lie below; None does not check them.
        batch_size: videos a batch; only the last of an epoch (of each worker) is smaller.
        shuffle_buffer: videos held to draw from, divided among the workers; 0 keeps the order of files and records.
            Where all shards are of a cache, any other number shuffles all videos, and none are held without `copies`.
        seed: of the shuffling. Order is fixed by (`seed`, epoch, `workers`).
        workers: threads that read; 0 reads in the thread that asks. Each is up to two batches ahead, in pinned memory
            where there is CUDA.
        skip_corrupt: skip damaged records, counted in `Batch.skipped`, instead of raising.
        labelled_only: leave out videos without a label, counted there too.
        copies: float32 `[C]`, how often an epoch has a video, by label (see `balanced_copies`). None is once for every
            video. With r the largest number of the video's labels (1 without labels), it comes `floor(r)` times. With
            probability `r - floor(r)` it comes once more. This is drawn anew each epoch, and as fixed as the order.
        clips: read the clips of rated segments instead of videos. Clips without a label that holds count too.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        spec: FeatureSpec,
        classes: int | None,
        batch_size: int,
        *,
        shuffle_buffer: int = 0,
        seed: int = 0,
        workers: int = 0,
        skip_corrupt: bool = False,
        labelled_only: bool = False,
        copies: Tensor | None = None,
        clips: Clips | None = None,
    ) -> None:
        assert shards
        assert batch_size >= 1
        assert shuffle_buffer >= 0
        assert workers >= 0
        assert copies is None or copies.shape == (classes,)
        self.shards, self.spec, self.classes, self.batch_size = list(shards), spec, classes, batch_size
        self.sizes = {shard: size_of(shard) for shard in shards}
        self.shuffle_buffer, self.seed, self.workers, self.skip_corrupt = shuffle_buffer, seed, workers, skip_corrupt
        self.labelled_only, self.clips = labelled_only and clips is None, clips
        self.copies = None if copies is None else copies.numpy()
        self.memory = Memory()
        self.cached = CacheFiles(spec, classes)
        self.rank, self.ranks = 0, 1

    def of_rank(self, rank: int, ranks: int) -> "Batches":
        """A rank's share: batches of `batch_size / ranks` videos, which must be a whole number. It may have none."""
        assert self.ranks == 1
        assert self.batch_size % ranks == 0
        share = copy(self)
        share.rank, share.ranks, share.batch_size = rank, ranks, self.batch_size // ranks
        return share

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0, skipped: Skipped = NOTHING) -> Iterator[Batch]:
        """The batches of one epoch: every record exactly once, or as often as `copies` says.

        Arguments:
            start: how many to leave out at the beginning. They are read and dropped. In a shuffled cache without
                `copies`, they are not even read, unless a record was skipped among them.
            skipped: what was left out in these, on any rank.

        Raises:
            DataError: a record is damaged (unless `skip_corrupt`) or does not fit `spec` or `classes`. Or a shard is
                gone or has changed since these batches were made.
            NoRecordsError: there is no sound record at all.
        """
        first = start if self.direct and not skipped else 0
        return islice(self._batches(number, first), start - first, None)

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """From the `first` on, which is 0 unless they are `direct`."""
        held = None
        skipped = Skipped()
        # A batch is held back until the next is there, so that records skipped at the very end count in the last one.
        for item in self._items(epoch, first):
            if isinstance(item, Skipped):
                skipped += item
                continue
            if held is not None:
                yield held
            held = item
        if held is None and first:
            return
        if held is None and self.ranks == 1:
            raise NoRecordsError(self.shards, skipped, self.clips)
        held = held or no_videos(self.spec)
        held.skipped += skipped
        yield held

    def shard_by_shard(self, shards: Sequence[Path]) -> "Iterator[Batch | Skipped]":
        """For each of some shards: its batches, and then what was left out in it.

        They come in their own order and are read in this thread. So a shard's batches are the same on every rank.
        """
        for shard in shards:
            skipped = Skipped()
            try:
                one = copy(self)
                one.shards, one.workers, one.shuffle_buffer, one.copies = [shard], 0, 0, None
                for batch in one:
                    yield batch
                    skipped += batch.skipped
            except NoRecordsError as error:  # among others such a shard is fine
                skipped = error.skipped
            yield skipped

    @property
    def permuted(self) -> bool:
        """Whether the order is a permutation of all videos, which a cache alone allows."""
        return self.shuffle_buffer > 0 and all(map(is_cached, self.shards))

    @property
    def direct(self) -> bool:
        """Whether a batch can be read without those before it.

        Copies and clips of a video lie side by side and take a buffer; which videos lack a label or ratings shows when
        they are read.
        """
        one_each = self.clips is None or self.clips.one_each
        return self.permuted and self.copies is None and one_each and not self.labelled_only

    def _items(self, epoch: int, first: int) -> "Iterator[Batch | Skipped]":
        workers = max(1, self.workers)
        # They take turns: by batch `first` the worker whose turn it is and those after it have had one less.
        turns = [(first + turn) % workers for turn in range(workers)]
        items = [
            _Stream(self, epoch, self.rank * workers + own, self.ranks * workers).read(-((own - first) // workers))
            for own in turns
        ]
        return read_ahead(*items) if self.workers else items[0]


@dataclass
class _Stream:
    """What one worker of several, on whatever ranks, reads in an epoch."""

    batches: Batches
    epoch: int
    worker: int
    workers: int

    def read(self, first: int) -> "Iterator[Batch | Skipped]":
        """Batches from the `first` on, 0 unless they are `direct`; then what was left out after the last."""
        batches = self.batches
        filling = Filling(batches.batch_size, batches.memory, pinned=batches.workers > 0 and torch.cuda.is_available())
        skipped = Skipped()
        items = self._permuted(first * batches.batch_size) if batches.direct else self._shuffled()
        # The ratings of whole videos may take more memory than their frames, so a buffer holds none.
        for item in self._cut(items) if batches.clips and batches.clips.whole else items:
            if isinstance(item, Video):
                if batches.labelled_only and not len(item.labels):
                    skipped += Skipped(unlabelled=1)
                    continue
                filling.add(item)
            elif batches.skip_corrupt:
                skipped += item.skipped
            else:
                raise item
            if len(filling) == batches.batch_size:
                yield filling.take(skipped)
                skipped = Skipped()
        if len(filling):
            yield filling.take(skipped)
        elif skipped:
            yield skipped

    def _shuffled(self) -> Iterator[Video | CorruptRecordError]:
        """Draws from a buffer; errors pass at once."""
        capacity = -(-self.batches.shuffle_buffer // self.workers)
        random = np.random.default_rng((self.batches.seed, self.epoch, self.worker + 1))
        buffer: list[Video] = []
        for item in self._copied():
            if not isinstance(item, Video) or capacity == 0:
                yield item
            elif len(buffer) < capacity:
                buffer.append(item)
            else:
                drawn = random.integers(capacity)
                yield buffer[drawn]
                buffer[drawn] = item
        for drawn in random.permutation(len(buffer)):
            yield buffer[drawn]

    def _copied(self) -> Iterator[Video | CorruptRecordError]:
        """Each video, or clip, as often as `copies` says, one after the other; errors once."""
        copies = self.batches.copies
        # The last number keeps these draws apart from those of the shuffling.
        random = np.random.default_rng((self.batches.seed, self.epoch, self.worker + 1, 1))
        videos = self._permuted() if self.batches.permuted else self._in_order()
        for item in self._cut(videos) if self.batches.clips and not self.batches.clips.whole else videos:
            if copies is None or not isinstance(item, Video) or len(item.labels) == 0:
                yield item
                continue
            expected = copies[item.labels].max()
            whole = int(expected)
            for _ in range(whole + int(random.random() < expected - whole)):
                yield item

    def _cut(self, videos: Iterator[Video | CorruptRecordError]) -> Iterator[Video | CorruptRecordError]:
        """The clips of videos."""
        clips = self.batches.clips
        assert clips is not None
        for item in videos:
            try:
                yield from clips.of(item) if isinstance(item, Video) else [item]
            except CorruptRecordError as error:
                yield error

    def _in_order(self) -> Iterator[Video | CorruptRecordError]:
        batches, shards = self.batches, self.batches.shards
        if batches.shuffle_buffer:
            order = np.random.default_rng((batches.seed, self.epoch, 0)).permutation(len(shards))
            shards = [shards[index] for index in order]
        for shard, part, parts in share_of(shards, self.worker, self.workers):
            if is_cached(shard):
                yield from batches.cached.file(shard).videos(part, parts)
            else:
                check_size(shard, batches.sizes[shard])
                yield from read_examples(shard, batches.spec, batches.classes, part, parts)

    def _permuted(self, first: int = 0) -> Iterator[Video | CorruptRecordError]:
        """Every `workers`-th place of a permutation of all records of a cache, from its `first` on."""
        batches, shards = self.batches, self.batches.shards
        ends = np.cumsum([count_cached(shard) for shard in shards])
        places = np.random.default_rng((batches.seed, self.epoch, 0)).permutation(ends[-1])
        places = places[self.worker :: self.workers][first:]
        for place, shard in zip(places, np.searchsorted(ends, places, side="right"), strict=True):
            file = batches.cached.file(shards[shard])
            try:
                yield file.video(int(place - ends[shard]) + len(file))
            except CorruptRecordError as error:
                yield error
