"""Shards: the files that a user names, what they hold, and their division among workers.

A shard is a TFRecord file or a file of a cache. Both are read by the same functions, and hold the same videos.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from vidfit.errors import DataError, reason
from vidfit.features.cache import INDEX, cached_files, count_cached, is_cached, open_cached, read_index
from vidfit.features.example import id_key, read_examples
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import CorruptRecordError, count_records, scan_records
from vidfit.files import matches, visible


def expand_shards(patterns: Sequence[str | Path], say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Files that the patterns name, sorted and each once, by whatever paths and links they are reached.

    What exists is taken literally, whatever brackets its name has. That holds for a whole pattern and for the folders
    that it begins with: only what follows them is a pattern.

    Arguments:
        patterns: files, globs (`**` crosses folders), or folders: of a cache, or every `*.tfrecord` of another.
            `~` is the user's home. Hidden files do not count: macOS leaves a `._x.tfrecord` beside a file `x.tfrecord`.
        say: told in one line each of files that are reached twice and of empty ones. An empty file is no error: a
            writer of many shards may have had nothing for one. But it may also be what is left of a failed copy.

    Raises:
        DataError: a pattern names no file, or a cache is not finished.
    """
    shards: set[Path] = set()
    for given in patterns:
        pattern = os.path.expanduser(given)
        if (Path(pattern) / INDEX).is_file():
            found, what = cached_files(Path(pattern)), "the cache is empty"
        elif Path(pattern).is_dir():
            found = visible(Path(pattern), "*.tfrecord")
            what = "the folder holds no *.tfrecord file and is no cache"
        elif Path(pattern).is_file():
            found, what = [Path(pattern)], ""
        else:
            found, what = [path for path in matches(pattern) if path.is_file()], "no file matches"
        if not found:
            raise DataError(f"shards {pattern!r}: {what}; give TFRecord files, a folder of them or a quoted glob")
        shards.update(found)
    if not shards:
        raise DataError("shards: the list is empty; give TFRecord files, a folder of them or a quoted glob")
    return _each_once(sorted(shards), say)


def identity(shard: Path) -> object:
    """The same for all paths and links to one file."""
    try:
        state = shard.stat()
    except OSError:  # which the reader will tell of
        return shard
    return state.st_dev, state.st_ino


def _each_once(shards: Sequence[Path], say: Callable[[str], None]) -> list[Path]:
    first: dict[object, Path] = {}
    again = [shard for shard in shards if first.setdefault(identity(shard), shard) != shard]
    if again:
        same = first[identity(again[0])]
        say(f"shards: {len(again)} are reached twice, such as {again[0]}, which is {same}; each counts once")
    files = list(first.values())
    empty = [file for file in files if file.exists() and file.stat().st_size == 0]
    if empty:
        say(f"shards: {len(empty)} of {len(files)} are empty files, such as {empty[0]}; was it copied whole?")
    return files


def size_of(shard: Path) -> int:
    """Bytes of a shard.

    Raises:
        DataError: it is not there, or cannot be asked.
    """
    try:
        return shard.stat().st_size
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}); check the path and its permissions") from error


def check_size(shard: Path, size: int) -> None:
    """Raises DataError where a shard is gone or no longer as long as it was."""
    if (now := size_of(shard)) != size:
        raise DataError(
            f"{shard}: changed from {size:,} to {now:,} bytes since reading began; put back what it was, or begin anew "
            "with shards that stay as they are"
        )


def share_of(shards: Sequence[Path], worker: int, workers: int) -> list[tuple[Path, int, int]]:
    """What one of several workers reads: `(shard, part, parts)`, the records whose number is `part` modulo `parts`.

    Workers take as many whole shards each, which is what disks are fast at. Of the shards that are left over, or where
    workers outnumber them, each is divided among several workers.
    """
    whole = len(shards) - len(shards) % workers
    mine = [(shard, 0, 1) for shard in shards[worker:whole:workers]]
    if left := shards[whole:]:
        first = worker % len(left)
        mine.append((left[first], worker // len(left), len(range(first, workers, len(left)))))
    return mine


def read_videos(
    path: Path, spec: FeatureSpec | None = None, classes: int | None = None, part: int = 0, parts: int = 1
) -> Iterator[Video | CorruptRecordError]:
    """Streams the videos of a shard, or every `parts`-th from `part` on; in the place of a damaged one comes its error.

    Arguments:
        path: the shard.
        spec: the modalities to take; None takes every one, the largest first.
        classes: labels must lie below; None does not check them.

    Raises:
        DataError: the file cannot be read, or a sound record does not fit `spec` or `classes`; it names file, record
            and field.
    """
    if is_cached(path):
        return open_cached(path, spec, classes).videos(part, parts)
    return read_examples(path, spec, classes, part, parts)


def infer_spec(shards: Sequence[Path], skip_corrupt: bool = False) -> FeatureSpec:
    """The modalities of the first record, the largest first.

    Raises:
        DataError: no record can be read, one is damaged and `skip_corrupt` is not set, or a feature can be no modality.
    """
    for path in shards:
        for video in read_videos(path):
            if not isinstance(video, CorruptRecordError):
                return FeatureSpec(modalities=tuple(_modality(path, *item) for item in video.frames.items()))
            if not skip_corrupt:
                raise video
    raise DataError(f"{shards[0]} and {len(shards) - 1} more shards hold no record that can be read; check the files")


def _modality(path: Path, name: str, array: np.ndarray) -> Modality:
    try:
        return Modality(name=name, size=array.shape[1], dtype="uint8" if array.dtype == np.uint8 else "float32")
    except ValidationError as error:
        raise DataError(f"{path}: feature {name!r} can be no modality ({reason(error)})") from error


def infer_id_key(shards: Sequence[Path]) -> str:
    """`id` or `video_id`, under which the first sound record keeps its id; there must be one (see `infer_spec`)."""
    for shard in shards:
        if is_cached(shard):
            return read_index(shard.parent).id_key
        for _, record in scan_records(shard):
            if isinstance(record, bytes):
                with suppress(CorruptRecordError):
                    return id_key(record)
    raise AssertionError("no sound record")


def estimate_records(shards: Sequence[Path]) -> int:
    """About how many records shards hold: of a cache their number, of TFRecord files as many a byte as the largest.

    Raises:
        DataError: a file cannot be opened or read.
    """
    cached = sum(count_cached(shard) for shard in shards if is_cached(shard))
    sizes = {shard: shard.stat().st_size for shard in shards if not is_cached(shard)}
    if not any(sizes.values()):
        return cached
    largest = max(sizes, key=lambda shard: sizes[shard])
    return cached + round(count_records(largest) * sum(sizes.values()) / sizes[largest])
