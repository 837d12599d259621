"""Making a cache: each shard is read once and written as a file of its own, which is read again before it counts.

A call that was stopped leaves whole files, and an index that says which are missing. The next call resumes there.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np
import pyarrow as pa

from vidfit.errors import DataError, OutputError
from vidfit.features.cache import (
    INDEX,
    SEGMENT,
    CachedShard,
    CacheFile,
    CacheIndex,
    checksum,
    columns_of,
    file_of,
    is_cached,
    read_index,
)
from vidfit.features.example import read_examples
from vidfit.features.segments import RatedSegments
from vidfit.features.skipped import Skipped
from vidfit.features.spec import FeatureSpec, Video
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.files import make_folder, replacing, visible, write_text
from vidfit.locks import locked
from vidfit.progress import OnCount, uncounted

_BATCH_BYTES: Final = 1 << 25  # of frames, held while a file is written


def write_cache(
    shards: Sequence[Path],
    directory: Path,
    id_key: str,
    spec: FeatureSpec,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    on_count: OnCount = uncounted,
) -> tuple[CacheIndex, int]:
    """Adds shards to a cache; those that are in it are compared with their files instead.

    A file appears under its name once it is complete and each of its records has been read again. The next call
    resumes one that was stopped.

    Arguments:
        shards: TFRecord files, no two of the same name.
        directory: the cache; made if absent.
        id_key: under which the records keep their ids (see `infer_id_key`).
        spec: the modalities, which every record must have.
        skip_corrupt: leave damaged records out.
        overwrite: make the files again that are there.
        on_count: called with (shards done, shards in all).

    Returns:
        What is in the cache, and how many shards were added now.

    Raises:
        OutputError: something else is there, another process writes this cache, or a file cannot be written.
        DataError: a record of a shard is damaged (unless `skip_corrupt`) or has other modalities, or a file of the
            cache is damaged.
    """
    _check_names(shards)
    with locked(directory):
        return _write_cache(shards, directory, id_key, spec, skip_corrupt, overwrite, on_count)


def _write_cache(
    shards: Sequence[Path],
    directory: Path,
    id_key: str,
    spec: FeatureSpec,
    skip_corrupt: bool,
    overwrite: bool,
    on_count: OnCount,
) -> tuple[CacheIndex, int]:
    index = _begun(directory, CacheIndex.model_validate({"id_key": id_key, "spec": spec}), overwrite)
    done = dict(index.shards)
    there = {shard.name for shard in shards if shard.name in done and file_of(directory, shard.name).exists()}
    added = [shard.name for shard in shards if overwrite or shard.name not in there]
    missing = {*index.missing, *added}
    make_folder(directory)

    def save() -> CacheIndex:
        finished = {name: done[name] for name in sorted(done) if name not in missing}
        now = index.model_copy(update={"shards": finished, "missing": tuple(sorted(missing))})
        write_text(directory / INDEX, json.dumps(now.model_dump(), indent=1) + "\n")
        return now

    now = save()
    for number, shard in enumerate(shards):
        on_count(number, len(shards))
        if shard.name in missing:
            done[shard.name] = _write_file(shard, directory, index, skip_corrupt)
            missing.remove(shard.name)
            now = save()
        else:
            _compare(shard, file_of(directory, shard.name), index, done[shard.name], skip_corrupt)
    on_count(len(shards), len(shards))
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
        if directory.exists() and (not directory.is_dir() or visible(directory, "*")):
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
    schema, records, skipped = columns_of(index), 0, Skipped()

    def sound() -> Iterator[Video]:
        nonlocal skipped
        for video in read_examples(shard, index.spec):
            if isinstance(video, Video):
                yield video
            elif skip_corrupt:
                skipped += video.skipped
            else:
                raise video

    with replacing(file_of(directory, shard.name)) as partial:
        with pa.OSFile(os.fsencode(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for videos in _groups(sound()):
                writer.write_batch(_record_batch(schema, index.spec, videos, records))
                records += len(videos)
        entry = CachedShard(
            shard_bytes=shard.stat().st_size,
            shard_crc32c=_file_crc32c(shard),
            records=records,
            skipped=skipped.records,
            skipped_bytes=skipped.bytes,
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


def _record_batch(schema: pa.Schema, spec: FeatureSpec, videos: list[Video], first: int) -> pa.RecordBatch:
    """Videos as columns; `first` is the number of the first."""
    offsets = pa.array(accumulate((video.num_frames for video in videos), initial=0), pa.int32())
    columns: list[pa.Array] = [
        pa.array([video.id for video in videos]),
        pa.array([video.labels for video in videos], pa.list_(pa.int64())),
        _segments([video.segments for video in videos]),
        pa.array([checksum(number, video) for number, video in enumerate(videos, first)], pa.uint32()),
    ]
    for modality in spec.modalities:
        frames_ND = np.concatenate([video.frames[modality.name] for video in videos])
        rows = pa.FixedSizeListArray.from_arrays(pa.array(frames_ND.reshape(-1)), modality.size)
        columns.append(pa.ListArray.from_arrays(offsets, rows))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _segments(videos: Sequence[RatedSegments]) -> pa.Array:
    """A list of segments per video."""
    names = ("starts", "ends", "labels", "scores")
    columns = [pa.array(np.concatenate([getattr(video, name) for video in videos])) for name in names]
    offsets = pa.array(accumulate(map(len, videos), initial=0), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=list(SEGMENT)))


def _file_crc32c(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = google_crc32c.extend(crc, chunk)
    return crc
