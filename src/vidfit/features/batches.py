"""Shards to ragged batches: shuffled, seeded, split over ranks and workers without a record lost or repeated.

Videos stay as long and as small as they are stored: a batch holds the bytes of all its frames one after another.
Shuffling takes the shards in random order and draws from a buffer of videos; where neighbouring records of a shard
resemble each other, the buffer has to be large. Of a cache it is a permutation of all videos, and needs none.
Memory holds the buffer and a few batches, whatever the number of shards. Rare labels can be read more often and
frequent ones less (`copies`).

Workers are threads, each with batches of its own, so an epoch may end in one smaller batch a worker. Reading, copying
and NumPy let others compute meanwhile, and nothing travels between processes: through their shared memory a batch costs
three times what it costs to read (docs/performance.md). What Python does for a record, and its checksum, is one
thread's at a time, so all workers together read about 10,000 records of 300 frames a second at most.

Several ranks read as so many times the workers would (`of_rank`): the ranks' n-th batches together are the n-th of the
whole, and a rank may have fewer of them. Of a cache, whose records can be had in any order, the whole then is the same
with any number of ranks: they take turns in it. Of TFRecord files each worker of each rank reads some from end to end,
because a file read whole is read ahead of time by disk and network, and parts of many files are not. The price is that
another number of ranks, as of workers, is another order of the videos; it is as random.

Legend: B videos, N frames of all videos together, T frames of the longest, D feature size, L labels, C classes.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidfit.errors import DataError
from vidfit.features.ahead import read_ahead
from vidfit.features.cache import CacheFile, count_cached, is_cached, open_cached
from vidfit.features.shards import check_size, read_videos, share_of, size_of
from vidfit.features.spec import FeatureSpec, Video
from vidfit.features.tfrecord import CorruptRecordError


@dataclass
class Batch:
    """Several videos of any length.

    Attributes:
        ids: `B` ids.
        frames: modality name -> `[N, D]` uint8 (float32 at video level), videos one after another.
        num_frames: `[B]` int64.
        labels: `[L]` int64, videos one after another.
        label_counts: `[B]` int64, labels of each video; 0 where a video is not labelled.
        skipped: corrupt records passed over since the previous batch.
    """

    ids: list[str]
    frames: dict[str, Tensor]
    num_frames: Tensor
    labels: Tensor
    label_counts: Tensor
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self) -> dict[str, Tensor]:
        """Modality name -> `[B, T, D]`, zero after each video's end."""
        lengths = self.num_frames.tolist()
        if not lengths:
            return {name: frames.unsqueeze(1) for name, frames in self.frames.items()}
        return {
            name: pad_sequence(list(frames.split(lengths)), batch_first=True) for name, frames in self.frames.items()
        }

    def rows(self, index: Tensor) -> "Batch":
        """Some of the videos, those of `index` `[B']` int64, in its order; the records skipped stay with the whole."""
        lengths, counts = self.num_frames.tolist(), self.label_counts.tolist()
        places = index.tolist()
        labels = self.labels.split(counts)
        frames = {name: whole.split(lengths) for name, whole in self.frames.items()}
        return Batch(
            ids=[self.ids[place] for place in places],
            frames={name: torch.cat([parts[place] for place in places]) for name, parts in frames.items()},
            num_frames=self.num_frames[index],
            labels=torch.cat([labels[place] for place in places]),
            label_counts=self.label_counts[index],
        )

    def multi_hot(self, classes: int) -> Tensor:
        """`[B, C]` float32: 1 where a video has the label."""
        targets_BC = torch.zeros(len(self), classes, device=self.labels.device)
        videos_L = torch.arange(len(self), device=self.labels.device).repeat_interleave(self.label_counts)
        targets_BC[videos_L, self.labels] = 1
        return targets_BC

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`; pinned frames are on their way there when it returns."""
        return replace(
            self,
            frames={name: frames.to(device, non_blocking=True) for name, frames in self.frames.items()},
            num_frames=self.num_frames.to(device),
            labels=self.labels.to(device),
            label_counts=self.label_counts.to(device),
        )


def collate(videos: Sequence[Video], skipped: int = 0) -> Batch:
    """One batch of the videos, in their order; all have the same modalities."""
    filling = _Filling(len(videos))
    for video in videos:
        filling.add(video)
    return filling.take(skipped)


class _Filling:
    """A batch that is being put together: a video's frames are copied as it comes, while the caches still have them.

    How many frames there will be is not known. Where the room ends there is made twice as much; room that is never
    written to takes no memory.

    Arguments:
        batch_size: about how many videos there will be.
        pinned: hold frames where a GPU can fetch them by itself; such memory is kept and used again by PyTorch.
    """

    def __init__(self, batch_size: int, pinned: bool = False) -> None:
        self.batch_size, self.pinned = batch_size, pinned
        self.most = 0
        self._start()

    def _start(self) -> None:
        self.ids: list[str] = []
        self.lengths: list[int] = []
        self.labels: list[np.ndarray] = []
        self.room: dict[str, np.ndarray] = {}
        self.filled = 0

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, video: Video) -> None:
        """One more video."""
        end = self.filled + video.num_frames
        for name, frames in video.frames.items():
            if name not in self.room:
                self.room[name] = self._empty(max(self.most, self.batch_size * video.num_frames), frames)
            elif end > len(self.room[name]):
                narrow = self.room[name]
                self.room[name] = self._empty(2 * end, frames)
                self.room[name][: self.filled] = narrow[: self.filled]
            self.room[name][self.filled : end] = frames
        self.filled = end
        self.ids.append(video.id)
        self.lengths.append(video.num_frames)
        self.labels.append(video.labels)

    def _empty(self, rows: int, like: np.ndarray) -> np.ndarray:
        shape = rows, like.shape[1]
        if self.pinned:
            return torch.empty(shape, dtype=getattr(torch, like.dtype.name), pin_memory=True).numpy()
        # NumPy's, for it asks for huge pages: filling 40 MB of PyTorch's takes four times as long.
        return np.empty(shape, like.dtype)

    def take(self, skipped: int) -> Batch:
        """The videos that have come, at least one, as a batch; what comes next is another's."""
        batch = Batch(
            ids=self.ids,
            frames={name: torch.from_numpy(room[: self.filled]) for name, room in self.room.items()},
            num_frames=torch.tensor(self.lengths),
            labels=torch.from_numpy(np.concatenate(self.labels)),
            label_counts=torch.tensor([len(labels) for labels in self.labels]),
            skipped=skipped,
        )
        self.most = max(self.most, self.filled)
        self._start()
        return batch


def no_videos(spec: FeatureSpec) -> Batch:
    """A batch of none: what a rank steps with once it has read its share of an epoch and others have not."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=[],
        frames={
            modality.name: torch.zeros(0, modality.size, dtype=getattr(torch, modality.dtype))
            for modality in spec.modalities
        },
        num_frames=nothing,
        labels=nothing,
        label_counts=nothing,
    )


def joined(batches: Sequence[Batch]) -> Batch:
    """The videos of several batches as one."""
    return Batch(
        ids=[id for batch in batches for id in batch.ids],
        frames={name: torch.cat([batch.frames[name] for batch in batches]) for name in batches[0].frames},
        num_frames=torch.cat([batch.num_frames for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        label_counts=torch.cat([batch.label_counts for batch in batches]),
        skipped=sum(batch.skipped for batch in batches),
    )


class NoRecordsError(DataError):
    """Shards without a single sound record."""

    def __init__(self, shards: Sequence[Path], skipped: int) -> None:
        super().__init__(
            f"{shards[0]} and {len(shards) - 1} more shards hold no record that can be read ({skipped} corrupt); "
            "check the files"
        )
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
        skip_corrupt: pass over damaged records, counted in `Batch.skipped`, instead of raising.
        copies: float32 `[C]`, how often an epoch has a video, by label (see `balanced_copies`); None is once for every
            video. Of a video's labels the largest number r counts, 1 where it has none: it comes `floor(r)` times, and
            once more with probability `r - floor(r)`, which is drawn anew each epoch and fixed as the order is.
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
        copies: Tensor | None = None,
    ) -> None:
        assert shards
        assert batch_size >= 1
        assert shuffle_buffer >= 0
        assert workers >= 0
        assert copies is None or copies.shape == (classes,)
        self.shards, self.spec, self.classes, self.batch_size = list(shards), spec, classes, batch_size
        self.sizes = {shard: size_of(shard) for shard in shards}
        self.shuffle_buffer, self.seed, self.workers, self.skip_corrupt = shuffle_buffer, seed, workers, skip_corrupt
        self.copies = None if copies is None else copies.numpy()
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

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch: every record exactly once, or as often as `copies` says.

        Raises:
            DataError: a record is damaged (unless `skip_corrupt`) or does not fit `spec` or `classes`, there is no
                sound record at all (NoRecordsError), or a shard is gone or has changed its size since these batches
                were made.
        """
        held = None
        skipped = 0
        # A batch is held back until the next is there, so that records skipped at the very end count in the last one.
        for item in self._items(number):
            if isinstance(item, int):
                skipped += item
                continue
            if held is not None:
                yield held
            held = item
        if held is None and self.ranks == 1:
            raise NoRecordsError(self.shards, skipped)
        held = held or no_videos(self.spec)
        held.skipped += skipped
        yield held

    def shard_by_shard(self, shards: Sequence[Path]) -> "Iterator[Batch | int]":
        """Of some of the shards in turn: the batches, and then how many corrupt records were skipped in that shard.

        In their own order and read in this thread, so that a shard's batches are the same whoever reads it.
        """
        for shard in shards:
            skipped = 0
            try:
                one = copy(self)
                one.shards, one.workers, one.shuffle_buffer, one.copies = [shard], 0, 0, None
                for batch in one:
                    yield batch
                    skipped += batch.skipped
            except NoRecordsError as error:  # beside others such a shard is fine
                skipped = error.skipped
            yield skipped

    def _items(self, epoch: int) -> "Iterator[Batch | int]":
        stream, workers = _Stream(self, epoch), max(1, self.workers)
        mine = range(self.rank * workers, (self.rank + 1) * workers)
        items = [stream.read(worker, self.ranks * workers) for worker in mine]
        return read_ahead(*items) if self.workers else items[0]


class _Stream:
    """One epoch of `Batches` as its items: batches, and counts of records skipped after the last one."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self.batches, self.epoch = batches, epoch
        self.anywhere = batches.shuffle_buffer > 0 and all(map(is_cached, batches.shards))

    def read(self, worker: int, workers: int) -> "Iterator[Batch | int]":
        """Items of one worker of several, on whatever ranks."""
        filling = _Filling(self.batches.batch_size, pinned=self.batches.workers > 0 and torch.cuda.is_available())
        skipped = 0
        for item in self._shuffled(worker, workers):
            if isinstance(item, Video):
                filling.add(item)
            elif self.batches.skip_corrupt:
                skipped += 1
            else:
                raise item
            if len(filling) == self.batches.batch_size:
                yield filling.take(skipped)
                skipped = 0
        if len(filling):
            yield filling.take(skipped)
        elif skipped:
            yield skipped

    def _shuffled(self, worker: int, workers: int) -> Iterator[Video | CorruptRecordError]:
        """Draws from a buffer; errors pass at once. A cache needs one for copies alone, which lie side by side."""
        capacity = -(-self.batches.shuffle_buffer // workers)
        if self.anywhere and self.batches.copies is None:
            capacity = 0
        random = np.random.default_rng((self.batches.seed, self.epoch, worker + 1))
        buffer: list[Video] = []
        for item in self._copied(worker, workers):
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

    def _copied(self, worker: int, workers: int) -> Iterator[Video | CorruptRecordError]:
        """Each video as often as `copies` says, one after the other; errors once."""
        copies = self.batches.copies
        # The last number keeps these draws apart from those of the shuffling.
        random = np.random.default_rng((self.batches.seed, self.epoch, worker + 1, 1))
        for item in (self._anywhere if self.anywhere else self._in_order)(worker, workers):
            if copies is None or not isinstance(item, Video) or len(item.labels) == 0:
                yield item
                continue
            expected = copies[item.labels].max()
            whole = int(expected)
            for _ in range(whole + int(random.random() < expected - whole)):
                yield item

    def _in_order(self, worker: int, workers: int) -> Iterator[Video | CorruptRecordError]:
        shards = self.batches.shards
        if self.batches.shuffle_buffer:
            order = np.random.default_rng((self.batches.seed, self.epoch, 0)).permutation(len(shards))
            shards = [shards[index] for index in order]
        for shard, part, parts in share_of(shards, worker, workers):
            check_size(shard, self.batches.sizes[shard])
            yield from read_videos(shard, self.batches.spec, self.batches.classes, part, parts)

    def _anywhere(self, worker: int, workers: int) -> Iterator[Video | CorruptRecordError]:
        """Every `workers`-th place of a permutation of all records of a cache."""
        shards = self.batches.shards
        ends = np.cumsum([count_cached(shard) for shard in shards])
        places = np.random.default_rng((self.batches.seed, self.epoch, 0)).permutation(ends[-1])[worker::workers]
        files: dict[int, CacheFile] = {}
        for place, shard in zip(places, np.searchsorted(ends, places, side="right"), strict=True):
            if shard not in files:
                check_size(shards[shard], self.batches.sizes[shards[shard]])
                files[shard] = open_cached(shards[shard], self.batches.spec, self.batches.classes)
            file = files[shard]
            try:
                yield file.video(int(place - ends[shard]) + len(file))
            except CorruptRecordError as error:
                yield error
