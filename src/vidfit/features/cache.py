"""A cache: the videos of shards in files that are mapped into memory. They are read in any order, without parsing.

A folder holds one uncompressed Arrow IPC file per shard, with the columns of `columns_of`. `cache.json` says which
shard each was made from. Frames lie in a file as in memory. So a video is a view of the page cache, which all ranks and
workers of a machine share. A file must have the bytes and records that `cache.json` names.

Each record has its own CRC32C, compared when the record is first read from an open file. Later reads only compare the
file's size and time of change: if someone writes to a file in use, reading ends with an error. A damaged record can be
skipped. Damage to a file's structure cannot, because it would hide how much is lost. A cache can always be made again.

Traded away: as much room again as the shards have. If a disk loses data after a record's first reading, this process
does not notice. If a mapped file is cut short in the very moment of a read, the process ends.

Source: the Arrow IPC file format, https://arrow.apache.org/docs/format/Columnar.html
"""

import json
import os
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, Literal

import google_crc32c
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from vidfit.errors import DataError, reason
from vidfit.features.example import check_labels
from vidfit.features.segments import NO_SEGMENTS, RatedSegments, check_segment_labels
from vidfit.features.skipped import Skipped
from vidfit.features.spec import FeatureSpec, Video
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.files import PathText

INDEX: Final = "cache.json"
SUFFIX: Final = ".arrow"
SEGMENT: Final = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.int64()), ("score", pa.float32())])
_AGAIN: Final = "remove the file and call the `vidfit cache` that made it again"


class CachedShard(BaseModel):
    """One file of a cache: which shard it was made from, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_bytes: int
    shard_crc32c: int
    """Of the whole shard."""
    records: int
    skipped: int
    """Corrupt records of the shard, which were left out."""
    skipped_bytes: int = 0
    """What these take in the shard."""
    bytes: int
    """Size of the file."""

    @property
    def left_out(self) -> Skipped:
        """What the shard has and the file lacks."""
        return Skipped(self.skipped, self.skipped_bytes)


class CacheIndex(BaseModel):
    """`cache.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2] = 2
    id_key: Literal["id", "video_id"]
    spec: FeatureSpec
    shards: dict[PathText, CachedShard] = {}
    """By the shard's name; the file's has `.arrow` at its end besides."""
    missing: tuple[PathText, ...] = ()
    """Names of the shards that are still to be read; with some, a cache is not finished."""


def is_cached(path: Path) -> bool:
    """Whether a file is one of a cache, by its name."""
    return path.suffix == SUFFIX


def cached_files(directory: Path) -> list[Path]:
    """The files of a cache, in the order of their shards' names.

    Raises:
        DataError: there is none, it is damaged, or it is not finished.
    """
    index = read_index(directory)
    if index.missing:
        raise DataError(
            f"{directory}: this cache is not finished, {len(index.missing)} shards are missing, {index.missing[0]} for "
            "one; call the `vidfit cache` that began it again"
        )
    return [file_of(directory, name) for name in sorted(index.shards)]


def read_index(directory: Path) -> CacheIndex:
    """What is in a cache.

    Raises:
        DataError: there is no `cache.json`, or it is damaged.
    """
    path = directory / INDEX
    try:
        state = path.stat()
        return _parsed(path, state.st_mtime_ns, state.st_ino)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give the folder of a cache, or TFRecord files"
        ) from error


@lru_cache
def _parsed(path: Path, changed: int, inode: int) -> CacheIndex:
    """Kept, for each of a cache's files asks for it."""
    try:
        return CacheIndex.model_validate(json.loads(path.read_bytes()))
    except ValueError as error:
        raise DataError(
            f"{path}: is damaged or of another version ({reason(error)}); remove the cache and make it again"
        ) from error


def count_cached(path: Path) -> int:
    """Records in a file of a cache; see `open_cached` for errors."""
    return _entry(path).records


def open_cached(path: Path, spec: FeatureSpec | None = None, classes: int | None = None) -> "CacheFile":
    """A file of a cache.

    Arguments:
        path: the file. The index is in the same folder.
        spec: modalities to take; None takes all.
        classes: labels must lie below; None does not check them.

    Raises:
        DataError: it is not in the index, is damaged, or has other modalities.
    """
    entry, index = _entry(path), read_index(path.parent)
    for modality in spec.modalities if spec else ():
        if modality not in index.spec.modalities:
            found = ", ".join(f"{own.name!r} of {own.size} {own.dtype}" for own in index.spec.modalities)
            raise DataError(
                f"{path}: has no feature {modality.name!r} of {modality.size} {modality.dtype} values a frame (its "
                f"features: {found}); compare `vidfit inspect` of it with the features asked for"
            )
    return CacheFile(path, index, entry, spec or index.spec, classes)


def _entry(path: Path) -> CachedShard:
    entry = read_index(path.parent).shards.get(path.name.removesuffix(SUFFIX))
    if entry is None:
        raise DataError(f"{path}: {path.parent / INDEX} does not name it; give the folder of a cache or shards")
    return entry


def file_of(directory: Path, shard: str) -> Path:
    """Where a shard's file is."""
    return directory / f"{shard}{SUFFIX}"


class CacheFile:
    """The videos of one file of a cache, by number; see `open_cached`."""

    def __init__(
        self, path: Path, index: CacheIndex, entry: CachedShard, spec: FeatureSpec, classes: int | None = None
    ) -> None:
        self.path, self.classes, self.entry = path, classes, entry
        self._names = [modality.name for modality in spec.modalities]
        try:
            self._state = size, _ = _state(path)
            if size != entry.bytes:
                raise ValueError(f"it has {size:,} bytes, and {entry.bytes:,} in {INDEX}")
            # Closing it lets go of the descriptor; the map stays as long as one of its arrays.
            with pa.memory_map(os.fsencode(path)) as file:
                reader = pa.ipc.open_file(file)
                if not reader.schema.equals(columns_of(index)):
                    raise ValueError(f"its columns are not those of {INDEX}")
                batches = range(reader.num_record_batches)
                self._batches = [_RecordBatch(reader.get_batch(number), index.spec) for number in batches]
            self._starts = list(accumulate((len(batch.ids) for batch in self._batches), initial=0))
            if len(self) != entry.records:
                raise ValueError(f"it has {len(self):,} records, and {entry.records:,} in {INDEX}")
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(f"{path}: is damaged or was replaced ({reason(error)}); {_AGAIN}") from error
        self._sound = bytearray(len(self))

    def __len__(self) -> int:
        return self._starts[-1]

    def video(self, number: int) -> Video:
        """The video of that number; its frames are read-only views of the file.

        Raises:
            CorruptRecordError: it is not what was written.
            DataError: it has a label outside the vocabulary, or the file is gone or has changed since it was opened.
        """
        self._check_unchanged()
        place = bisect(self._starts, number) - 1
        batch, row = self._batches[place], number - self._starts[place]
        if not self._sound[number]:
            self._check(number, batch.video(row, batch.frames), batch.checksums[row])
            self._sound[number] = True
        return batch.video(row, self._names)

    def _check_unchanged(self) -> None:
        try:
            now = _state(self.path)
        except OSError:
            now = None
        if now != self._state:
            raise DataError(
                f"{self.path}: was removed or changed while it was in use; put back what it was, or begin anew with "
                "shards that stay as they are"
            )

    def _check(self, number: int, video: Video, expected: int) -> None:
        if checksum(number, video) != expected:
            raise CorruptRecordError(
                f"{self.path}, record {number}: its bytes do not match its CRC32C; {_AGAIN}, or use --skip-corrupt"
            )
        try:
            check_labels(video.labels, self.classes)
            check_segment_labels(video.segments, self.classes, video.id)
        except DataError as error:
            raise DataError(f"{self.path}, record {number}: {error}") from error

    def checksums(self) -> np.ndarray:
        """Of all records, uint32 `[V]`: they cover ids, labels and frames."""
        return np.concatenate([np.empty(0, np.uint32), *(batch.checksums for batch in self._batches)])

    def labels(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Labels `[L]` int64 of each record, and those of its rated segments, not compared with its checksum."""
        for batch in self._batches:
            offsets, labels = batch.labels
            for row, (start, end) in enumerate(pairwise(offsets.tolist())):
                yield labels[start:end], batch.segments(row).labels

    def videos(self, part: int = 0, parts: int = 1) -> Iterator[Video | CorruptRecordError]:
        """Those whose number is `part` modulo `parts`; in the place of a damaged one comes its error."""
        for number in range(part, len(self), parts):
            try:
                yield self.video(number)
            except CorruptRecordError as error:
                yield error


class CacheFiles:
    """Files of caches that stay open. Threads may share it."""

    def __init__(self, spec: FeatureSpec, classes: int | None) -> None:
        self._spec, self._classes = spec, classes
        self._open: dict[Path, CacheFile] = {}

    def __reduce__(self) -> tuple[type["CacheFiles"], tuple[FeatureSpec, int | None]]:
        """Another process opens its own."""
        return CacheFiles, (self._spec, self._classes)

    def file(self, path: Path) -> CacheFile:
        """See `open_cached`."""
        if path not in self._open:
            self._open[path] = open_cached(path, self._spec, self._classes)
        return self._open[path]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change: writing to a file changes one of them."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


class _RecordBatch:
    """Some rows of a file, their columns as arrays whose every offset is in bounds."""

    def __init__(self, batch: pa.RecordBatch, spec: FeatureSpec) -> None:
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise ValueError("it has nulls")
        self.ids, labels, segments, checksums, *frames = batch.columns
        self.checksums = checksums.to_numpy()
        self.labels = labels.offsets.to_numpy(), labels.values.to_numpy()
        self._segments = segments.offsets.to_numpy(), [column.to_numpy() for column in segments.values.flatten()]
        self.frames = {
            modality.name: (column.offsets.to_numpy(), column.values.values.to_numpy().reshape(-1, modality.size))
            for modality, column in zip(spec.modalities, frames, strict=True)
        }

    def video(self, row: int, names: Iterable[str]) -> Video:
        offsets, labels = self.labels
        frames: dict[str, np.ndarray] = {}
        for name in names:
            starts, values = self.frames[name]
            frames[name] = values[starts[row] : starts[row + 1]]
        return Video(self.ids[row].as_py(), frames, labels[offsets[row] : offsets[row + 1]], self.segments(row))

    def segments(self, row: int) -> RatedSegments:
        offsets, columns = self._segments
        start, end = offsets[row], offsets[row + 1]
        return RatedSegments(*(column[start:end] for column in columns)) if start < end else NO_SEGMENTS


def columns_of(index: CacheIndex) -> pa.Schema:
    """Columns of a file: id, labels, rated segments, checksum and the modalities."""
    values = {"uint8": pa.uint8(), "float32": pa.float32()}
    return pa.schema(
        [
            (index.id_key, pa.string()),
            ("labels", pa.list_(pa.int64())),
            ("segments", pa.list_(SEGMENT)),
            ("crc32c", pa.uint32()),
            *((own.name, pa.list_(pa.list_(values[own.dtype], own.size))) for own in index.spec.modalities),
        ]
    )


def checksum(number: int, video: Video) -> int:
    """CRC32C of a record and its place: number (u64), id, labels (i64 each), segments, then each modality's values.

    The segments' starts, ends and labels (i64 each) come one after another, then the scores (f32).
    """
    rated = video.segments
    segments = b"".join(column.tobytes() for column in (rated.starts, rated.ends, rated.labels, rated.scores))
    crc = google_crc32c.value(number.to_bytes(8, "little") + video.id.encode() + video.labels.tobytes() + segments)
    for frames in video.frames.values():
        crc = google_crc32c.extend(crc, np.ascontiguousarray(frames))
    return crc
