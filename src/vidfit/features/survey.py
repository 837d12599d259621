"""What each shard holds, in a few numbers that are read once and kept: its checksum, its videos, its labels.

A run records which shards a stage was done from. Names and sizes do not tell: a label corrected in place changes
neither. So a shard counts by the SHA-256 of its content.

Reading all shards takes a while, so the next call uses what this one found. It is kept in one JSON file per folder of
shards, under `$XDG_CACHE_HOME/vidfit/shards` (by default `~/.cache/vidfit/shards`). It is valid while the shard's size,
inode and times of change stay the same. If that folder cannot be written, every call reads again. Processes may share
it: each file is replaced whole, and if one process overwrites what another found, that is read again.

A file of a cache is not read whole. Its checksum is that of its records' checksums, which cover all their content.
"""

import base64
import hashlib
import json
import os
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter

from vidfit.errors import DataError, OutputError
from vidfit.features.cache import is_cached, open_cached, read_index
from vidfit.features.example import parse_labels
from vidfit.features.tfrecord import CorruptRecordError, scan_records
from vidfit.files import PathText, file_digest, make_folder, replacing
from vidfit.progress import OnCount, uncounted

# To be raised when the same shard leads to other numbers.
_VERSION: Final = 3
# Seconds. Within one tick of its clock a file system cannot tell two changes apart; FAT's is the slowest.
_TICK: Final = 2
_THREADS: Final = 4


class Survey(BaseModel):
    """What a shard holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    """Of its content."""
    videos: int
    unlabelled: int
    """Videos without a label."""
    one_label: int
    """Videos with exactly one label."""
    corrupt: int
    """Damaged records. A record whose frames alone make no sense is found when it is read, and not here."""
    lowest: int
    highest: int
    """Of the labels, those of rated segments too; 0 and -1 where there is none."""
    positives: str
    """How many videos have each label, as `_pack` writes it: a large data set has a million such counts."""

    def count_positives(self, classes: int) -> np.ndarray:
        """How many videos have each label, int64 `[C]`. Labels outside the vocabulary are left out."""
        labels, counts = np.frombuffer(zlib.decompress(base64.b64decode(self.positives)), np.int64).reshape(2, -1)
        positives_C, inside = np.zeros(classes, np.int64), (labels >= 0) & (labels < classes)
        positives_C[labels[inside]] = counts[inside]
        return positives_C


class _Kept(BaseModel):
    """A survey and the state of the file it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: tuple[int, ...]
    survey: Survey


_KEPT: Final = TypeAdapter(dict[PathText, _Kept])
"""By the shard's name."""


def survey_shards(shards: Sequence[Path], on_count: OnCount = uncounted) -> dict[Path, Survey]:
    """What each shard holds; read where it is not known yet.

    Arguments:
        shards: TFRecord files or those of a cache.
        on_count: called with (shards done, shards in all).

    Raises:
        DataError: a shard cannot be read.
    """
    folders: defaultdict[Path, list[Path]] = defaultdict(list)
    for shard in shards:
        folders[shard.absolute().parent].append(shard)
    found: dict[Path, Survey] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for folder, members in folders.items():
            kept = _load(folder)
            new: dict[str, _Kept] = {}
            try:
                surveys = pool.map(lambda shard, kept=kept: _survey(shard, kept), members)
                for shard, (survey, to_keep) in zip(members, surveys, strict=True):
                    found[shard] = survey
                    if to_keep:
                        new[shard.name] = to_keep
                    on_count(len(found), len(shards))
            finally:
                if new:
                    _save(folder, new)
    return found


def digests(shards: Sequence[Path], surveys: Mapping[Path, Survey]) -> list[tuple[str, str]]:
    """Name and SHA-256 of each shard: what a stage was done from."""
    return [(shard.name, surveys[shard].sha256) for shard in shards]


def state_of(shard: Path) -> tuple[int, ...]:
    """Size, times of change and inode. Whoever changes a file changes its `ctime`, which no tool can set back.

    Raises:
        DataError: the shard is not there, or cannot be asked.
    """
    try:
        state = shard.stat()
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _survey(shard: Path, known: Mapping[str, _Kept]) -> tuple[Survey, _Kept | None]:
    """A shard's survey, and what is to be kept of it if it is new."""
    before, now, kept = state_of(shard), time.time(), known.get(shard.name)
    if kept and kept.state == before:
        return kept.survey, None
    survey = _survey_cached(shard) if is_cached(shard) else _survey_records(shard)
    settled = before == state_of(shard) and now - before[2] / 1e9 > _TICK
    return survey, _Kept(state=before, survey=survey) if settled else None


def _survey_records(shard: Path) -> Survey:
    """Of a TFRecord file."""
    try:
        sha256 = file_digest(shard)
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}); check the path and its permissions") from error
    corrupt = 0

    def labels() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal corrupt
        for _, record in scan_records(shard):
            try:
                if isinstance(record, CorruptRecordError):
                    raise record
                yield parse_labels(record)
            except CorruptRecordError:
                corrupt += 1

    counts = _count(labels())
    return Survey(sha256=sha256, corrupt=corrupt, **counts)


def _survey_cached(shard: Path) -> Survey:
    """Of a file of a cache."""
    file = open_cached(shard)
    made_from = json.dumps([read_index(shard.parent).spec.model_dump(), file.entry.model_dump()])
    sha256 = hashlib.sha256(made_from.encode())
    sha256.update(file.checksums().tobytes())
    return Survey(sha256=sha256.hexdigest(), corrupt=0, **_count(file.labels()))


def _count(labels: Iterator[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Videos and labels, of pairs: the labels of a video, and those of its rated segments."""
    videos = unlabelled = one_label = 0
    lowest, highest = 0, -1
    positives: Counter[int] = Counter()
    for own, rated in labels:
        videos += 1
        unlabelled += not len(own)
        one_label += len(own) == 1
        positives.update(own.tolist())
        for some in (own, rated):
            if len(some):
                lowest, highest = min(lowest, int(some.min())), max(highest, int(some.max()))
    return {
        "videos": videos,
        "unlabelled": unlabelled,
        "one_label": one_label,
        "lowest": lowest,
        "highest": highest,
        "positives": _pack(positives),
    }


def _pack(positives: Counter[int]) -> str:
    """Base64 of compressed int64: labels, then counts."""
    table = np.array(sorted(positives.items()), np.int64).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(table.tobytes())).decode()


def _file(folder: Path) -> Path:
    """Where the surveys of a folder's shards are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    return Path(base) / "vidfit" / "shards" / f"{name}-{_VERSION}.json"


def _load(folder: Path) -> dict[str, _Kept]:
    """By the shard's name; nothing where there is none, or a damaged one."""
    try:
        return _KEPT.validate_python(json.loads(_file(folder).read_bytes()))
    except (OSError, RuntimeError, ValueError):  # a RuntimeError: there is no home
        return {}


def _save(folder: Path, new: Mapping[str, _Kept]) -> None:
    """Add them to what is known of files that still exist."""
    kept = {name: kept for name, kept in _load(folder).items() if (folder / name).exists()} | dict(new)
    with suppress(OutputError, OSError, RuntimeError):
        file = _file(folder)
        make_folder(file.parent)
        with replacing(file) as partial:
            partial.write_text(json.dumps(_KEPT.dump_python(kept)), encoding="utf-8")
