"""A cache: the videos of shards in files that are mapped into memory and read in any order, without parsing.

A folder holds one Arrow IPC file a shard, uncompressed, and `cache.json`, which says what each was made from
(docs/format.md). Frames lie in a file as they do in memory, so a video is a view of the page cache, which all ranks and
workers of a machine share. Every record has a CRC32C of its own, compared whenever it is read; a file is a cache's only
with the bytes and records that `cache.json` tells. A damaged record can be passed over. Damage to a file's structure
cannot, for it would hide how much is lost; but a cache can be made again.

Traded away: as much room again as the shards have. A mapped file must not be cut short while it is in use, which would
end the process; vidfit itself only replaces whole files, and those who read the old one keep it.

Source: the Arrow IPC file format, https://arrow.apache.org/docs/format/Columnar.html
"""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

import google_crc32c
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from vidfit.errors import DataError, OutputError, reason
from vidfit.features.example import check_labels, read_examples
from vidfit.features.spec import FeatureSpec, Video
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.files import make_folder, replacing

INDEX: Final = "cache.json"
SUFFIX: Final = ".arrow"
_BATCH_BYTES: Final = 1 << 25  # of frames, held while a file is written
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
    bytes: int
    """Size of the file."""


class CacheIndex(BaseModel):
    """`cache.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    id_key: Literal["id", "video_id"]
    spec: FeatureSpec
    shards: dict[str, CachedShard] = {}
    """By the shard's name; the file's has `.arrow` at its end besides."""
    missing: tuple[str, ...] = ()
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
    return [_file(directory, name) for name in sorted(index.shards)]


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
        return CacheIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path}: is damaged ({reason(error)}); remove it and make the cache again") from error


def count_cached(path: Path) -> int:
    """Records in a file of a cache; see `open_cached` for errors."""
    return _entry(path).records


def open_cached(path: Path, spec: FeatureSpec | None = None, classes: int | None = None) -> "CacheFile":
    """A file of a cache.

    Arguments:
        path: the file; the index lies beside it.
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


def _file(directory: Path, shard: str) -> Path:
    return directory / f"{shard}{SUFFIX}"


class CacheFile:
    """The videos of one file of a cache, by number; see `open_cached`."""

    def __init__(
        self, path: Path, index: CacheIndex, entry: CachedShard, spec: FeatureSpec, classes: int | None = None
    ) -> None:
        self.path, self.classes = path, classes
        self._names = [modality.name for modality in spec.modalities]
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                raise ValueError(f"it has {size:,} bytes, and {entry.bytes:,} in {INDEX}")
            # Closing it lets go of the descriptor; the map stays as long as one of its arrays.
            with pa.memory_map(str(path)) as file:
                reader = pa.ipc.open_file(file)
                if not reader.schema.equals(_schema(index)):
                    raise ValueError(f"its columns are not those of {INDEX}")
                batches = range(reader.num_record_batches)
                self._batches = [_Batch(reader.get_batch(number), index.spec) for number in batches]
            self._starts = list(accumulate((len(batch.ids) for batch in self._batches), initial=0))
            if len(self) != entry.records:
                raise ValueError(f"it has {len(self):,} records, and {entry.records:,} in {INDEX}")
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(f"{path}: is damaged or was replaced ({reason(error)}); {_AGAIN}") from error

    def __len__(self) -> int:
        return self._starts[-1]

    def video(self, number: int) -> Video:
        """The video of that number; its frames are read-only views of the file.

        Raises:
            CorruptRecordError: it is not what was written.
            DataError: it has a label outside the vocabulary.
        """
        place = bisect(self._starts, number) - 1
        batch, row = self._batches[place], number - self._starts[place]
        video = batch.video(row)
        if _checksum(number, video) != batch.checksums[row]:
            raise CorruptRecordError(
                f"{self.path}, record {number}: its bytes do not match its CRC32C; {_AGAIN}, or use --skip-corrupt"
            )
        try:
            check_labels(video.labels, self.classes)
        except DataError as error:
            raise DataError(f"{self.path}, record {number}: {error}") from error
        return Video(video.id, {name: video.frames[name] for name in self._names}, video.labels)

    def videos(self, part: int = 0, parts: int = 1) -> Iterator[Video | CorruptRecordError]:
        """Those whose number is `part` modulo `parts`; in the place of a damaged one comes its error."""
        for number in range(part, len(self), parts):
            try:
                yield self.video(number)
            except CorruptRecordError as error:
                yield error


class _Batch:
    """A record batch, its columns as arrays whose every offset is in bounds."""

    def __init__(self, batch: pa.RecordBatch, spec: FeatureSpec) -> None:
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise ValueError("it has nulls")
        self.ids, labels, checksums, *frames = batch.columns
        self.checksums = checksums.to_numpy()
        self.labels = labels.offsets.to_numpy(), labels.values.to_numpy()
        self.frames = {
            modality.name: (column.offsets.to_numpy(), column.values.values.to_numpy().reshape(-1, modality.size))
            for modality, column in zip(spec.modalities, frames, strict=True)
        }

    def video(self, row: int) -> Video:
        offsets, labels = self.labels
        return Video(
            id=self.ids[row].as_py(),
            frames={name: values[starts[row] : starts[row + 1]] for name, (starts, values) in self.frames.items()},
            labels=labels[offsets[row] : offsets[row + 1]],
        )


def write_cache(
    shards: Sequence[Path],
    directory: Path,
    id_key: str,
    spec: FeatureSpec,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[CacheIndex, int]:
    """Adds shards to a cache; those that are in it are compared with their files instead.

    A file appears under its name once it is complete and each of its records has been read again. A call that was
    stopped is gone on with by the next one.

    Arguments:
        shards: TFRecord files, no two of the same name.
        directory: the cache; made if absent.
        id_key: under which the records keep their ids (see `infer_id_key`).
        spec: the modalities, which every record must have.
        skip_corrupt: leave damaged records out.
        overwrite: make the files again that are there.
        show: called with (shards done, shards in all).

    Returns:
        What is in the cache, and how many shards were added now.

    Raises:
        OutputError: something else is there, or a file cannot be written.
        DataError: a record of a shard is damaged (unless `skip_corrupt`) or has other modalities, or a file of the
            cache is damaged.
    """
    _check_names(shards)
    index = _begun(directory, CacheIndex.model_validate({"id_key": id_key, "spec": spec}), overwrite)
    done = dict(index.shards)
    there = {shard.name for shard in shards if shard.name in done and _file(directory, shard.name).exists()}
    added = [shard.name for shard in shards if overwrite or shard.name not in there]
    missing = {*index.missing, *added}
    make_folder(directory)

    def save() -> CacheIndex:
        finished = {name: done[name] for name in sorted(done) if name not in missing}
        now = index.model_copy(update={"shards": finished, "missing": tuple(sorted(missing))})
        with replacing(directory / INDEX) as partial:
            partial.write_text(now.model_dump_json(indent=1) + "\n")
        return now

    now = save()
    for number, shard in enumerate(shards):
        show(number, len(shards))
        if shard.name in missing:
            done[shard.name] = _write_file(shard, directory, index, skip_corrupt)
            missing.remove(shard.name)
            now = save()
        else:
            _compare(shard, _file(directory, shard.name), index, done[shard.name], skip_corrupt)
    show(len(shards), len(shards))
    return now, len(added)


def _check_names(shards: Sequence[Path]) -> None:
    name, times = Counter(shard.name for shard in shards).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} shards are called {name}, and so would be their cached files; rename all but one")
    if cached := next(filter(is_cached, shards), None):
        raise DataError(f"{cached}: is in a cache already; give TFRecord files")


def _begun(directory: Path, new: CacheIndex, overwrite: bool) -> CacheIndex:
    """The index to add to."""
    if not (directory / INDEX).exists():
        if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
            raise OutputError(f"{directory}: holds something and is no cache; choose another folder")
        return new
    found = read_index(directory)
    if (found.id_key, found.spec) == (new.id_key, new.spec):
        return found
    if overwrite:
        return new
    raise OutputError(f"{directory}: is a cache of other features; choose another folder, or add --overwrite")


def _compare(shard: Path, path: Path, index: CacheIndex, entry: CachedShard, skip_corrupt: bool) -> None:
    """Raises where a file is not whole, was made from another shard, or lacks records that it may not lack."""
    if (entry.shard_bytes, entry.shard_crc32c) != (shard.stat().st_size, _file_crc32c(shard)):
        raise OutputError(
            f"{path}: was made from another {shard.name} than {shard}; choose another folder, or add --overwrite"
        )
    if entry.skipped and not skip_corrupt:
        raise DataError(
            f"{path}: lacks {entry.skipped} corrupt records of {shard}; mend the shard or use --skip-corrupt"
        )
    _check(CacheFile(path, index, entry, index.spec))


def _check(file: CacheFile) -> None:
    for video in file.videos():
        if isinstance(video, CorruptRecordError):
            raise video


def _write_file(shard: Path, directory: Path, index: CacheIndex, skip_corrupt: bool) -> CachedShard:
    """Reads a shard and writes its file."""
    schema, records, skipped = _schema(index), 0, 0

    def sound() -> Iterator[Video]:
        nonlocal skipped
        for video in read_examples(shard, index.spec):
            if isinstance(video, Video):
                yield video
            elif skip_corrupt:
                skipped += 1
            else:
                raise video

    with replacing(_file(directory, shard.name)) as partial:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for videos in _groups(sound()):
                writer.write_batch(_record_batch(schema, index.spec, videos, records))
                records += len(videos)
        entry = CachedShard(
            shard_bytes=shard.stat().st_size,
            shard_crc32c=_file_crc32c(shard),
            records=records,
            skipped=skipped,
            bytes=partial.stat().st_size,
        )
        _check(CacheFile(partial, index, entry, index.spec))
    return entry


def _groups(videos: Iterator[Video]) -> Iterator[list[Video]]:
    """As many videos as a record batch has."""
    group: list[Video] = []
    size = 0
    for video in videos:
        group.append(video)
        size += sum(frames.nbytes for frames in video.frames.values())
        if size >= _BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _schema(index: CacheIndex) -> pa.Schema:
    """Columns of a file: id, labels, checksum and the modalities."""
    values = {"uint8": pa.uint8(), "float32": pa.float32()}
    return pa.schema(
        [
            (index.id_key, pa.string()),
            ("labels", pa.list_(pa.int64())),
            ("crc32c", pa.uint32()),
            *((own.name, pa.list_(pa.list_(values[own.dtype], own.size))) for own in index.spec.modalities),
        ]
    )


def _record_batch(schema: pa.Schema, spec: FeatureSpec, videos: list[Video], first: int) -> pa.RecordBatch:
    """Videos as columns; `first` is the number of the first."""
    offsets = pa.array(accumulate((video.num_frames for video in videos), initial=0), pa.int32())
    columns: list[pa.Array] = [
        pa.array([video.id for video in videos]),
        pa.array([video.labels for video in videos], pa.list_(pa.int64())),
        pa.array([_checksum(number, video) for number, video in enumerate(videos, first)], pa.uint32()),
    ]
    for modality in spec.modalities:
        frames_ND = np.concatenate([video.frames[modality.name] for video in videos])
        rows = pa.FixedSizeListArray.from_arrays(pa.array(frames_ND.reshape(-1)), modality.size)
        columns.append(pa.ListArray.from_arrays(offsets, rows))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _checksum(number: int, video: Video) -> int:
    """CRC32C of a record and its place: number (u64), id, labels (i64 each), then each modality's values."""
    crc = google_crc32c.value(number.to_bytes(8, "little") + video.id.encode() + video.labels.tobytes())
    for frames in video.frames.values():
        crc = google_crc32c.extend(crc, np.ascontiguousarray(frames))
    return crc


def _file_crc32c(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = google_crc32c.extend(crc, chunk)
    return crc
