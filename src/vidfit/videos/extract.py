"""Videos to a folder of shards, resumable.

While FEATURES is being made, `FEATURES/embeddings` holds a file per finished video. When all are finished, transforms
are fitted on the training videos, shards are written, and `extractor.json` last. Everything follows from the videos
alone, not from the order in which they were finished: a killed and resumed call leaves the same bytes.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from vidfit import distributed
from vidfit.errors import DataError, OutputError
from vidfit.features.example import write_shard
from vidfit.features.spec import Video, Vocabulary
from vidfit.files import make_folder, path_in_table, read_table, write_table, write_text
from vidfit.locks import locked
from vidfit.progress import OnProgress, Pace, Progress, begin, silent
from vidfit.videos.carried import CarriedModels
from vidfit.videos.embed import Embedded, Embedder, Model
from vidfit.videos.embed_worker import Job, embed_files, load
from vidfit.videos.extractor import FILE, Extractor, Settings, read_extractor
from vidfit.videos.sources import Source, check_labelled
from vidfit.videos.transform import BLOCK, Transform, fit_transform, youtube8m_transform

EMBEDDINGS: Final = "embeddings"
SHARDS: Final = "shards"
VIDEOS: Final = "videos.csv"
FAILED: Final = "failed.csv"
VOCABULARY: Final = "vocabulary.csv"
SEGMENTS: Final = "segments.csv"
SIZES: Final = {"rgb": 256, "audio": 128}
"""Modality -> bytes of a step, unless others are asked for."""
_VIDEOS_A_SHARD: Final = 256
_SECONDS_PER_LINE: Final = 10
# Stages of the work.
_FITTING: Final = "learning how to store features"
_WRITING: Final = "writing features"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be extracted.

    Attributes:
        sources: the videos.
        settings: how they are read.
        splits: split -> share of the videos, summing to 1.
        like: the extractor to use; None fits transforms.
        carried: models of a packed file, in place of those that `like` names.
        vocabulary: label names; None takes those of the sources.
        sizes: modality -> bytes of a step, where transforms are fitted.
    """

    sources: Sequence[Source]
    settings: Settings
    splits: dict[str, float]
    like: Extractor | None = None
    carried: CarriedModels | None = None
    vocabulary: tuple[str, ...] | None = None
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))

    @property
    def models(self) -> Mapping[str, Model] | None:
        """Those that embed, by modality; None means the backbones of the settings."""
        return self.carried and self.carried.by_modality

    def digest(self) -> str:
        """The same where embeddings are the same."""
        return self.settings.digest() + (self.carried.digest if self.carried else "")


@dataclass
class Extracted:
    """What became of the videos."""

    videos: int
    labels: int
    failed: int
    seconds: float
    resumed: int


def extract(plan: Plan, output: Path, workers: int, on_progress: OnProgress = silent) -> Extracted:
    """Make the features of some videos; resumes what was stopped.

    Arguments:
        workers: processes of each rank; 0 is one per core.

    Raises:
        DataError: no video can be read, none of them is for training although a transform has to be fitted, or a
            backbone's model is missing or does not run.
        OutputError: `output` cannot be written, is in use or finished, was begun with other settings or models, or
            holds other shards.
    """
    vocabulary = _vocabulary(plan)
    with locked(output):
        if (output / FILE).exists():
            return _finished(plan, output)
        return _extract(plan, output, vocabulary, workers, on_progress)


def _extract(plan: Plan, output: Path, vocabulary: Sequence[str], workers: int, on_progress: OnProgress) -> Extracted:
    folder = output / EMBEDDINGS
    begin(on_progress, "loading the models for pictures and sounds", 0, "models")
    # A model that is missing or does not run is one error here, before anything is written.
    distributed.on_all_ranks(Embedder, plan.settings, plan.models)
    _begin(folder, plan.digest())
    jobs = [Job(source.path.absolute(), folder / _key(source)) for source in plan.sources]
    begin(on_progress, "extracting", len(jobs), "videos")
    resumed = sum(job.target.with_suffix(".npz").exists() for job in jobs)
    work = jobs, plan.settings, workers, plan.models
    distributed.on_all_ranks(_embed_all, *work, rank_0_only={"on_progress": on_progress})
    failed = {job.path: job.target for job in jobs if not job.target.with_suffix(".npz").exists()}
    good = [source for source in plan.sources if source.path.absolute() not in failed]
    write_table(
        output / FAILED,
        ["path", "reason"],
        ([path, target.with_suffix(".failed").read_text(encoding="utf-8")] for path, target in failed.items()),
    )
    if not good:
        raise DataError(f"none of {len(jobs)} videos can be read; {output / FAILED} says why")
    extractor = plan.like or Extractor(settings=plan.settings, transforms=_fit(plan, good, folder, on_progress))
    seconds = _write(plan, good, folder, output, extractor, vocabulary, on_progress)
    write_text(output / FILE, extractor.model_dump_json(indent=1) + "\n")
    shutil.rmtree(folder)
    return Extracted(len(good), len(vocabulary), len(failed), seconds, resumed)


def readable(sources: Sequence[Source], output: Path) -> list[Source]:
    """Those that a finished extraction could read."""
    failed = {path_in_table(row["path"]) for row in read_table(output / FAILED)}
    return [source for source in sources if source.path.absolute() not in failed]


def _finished(plan: Plan, output: Path) -> Extracted:
    """What a call made that was killed while it removed its embeddings."""
    folder = output / EMBEDDINGS
    if folder.exists():
        shutil.rmtree(folder)
        videos = read_table(output / VIDEOS)
        good = readable(plan.sources, output)
        wanted = {source.id for source in good}
        if read_extractor(output / FILE).settings == plan.settings and wanted == {row["id"] for row in videos}:
            seconds, failed = sum(float(row["duration"]) for row in videos), len(plan.sources) - len(good)
            return Extracted(len(videos), len(read_vocabulary(output)), failed, seconds, len(videos))
    raise OutputError(
        f"{output}: is finished; for more videos give another folder and --like {output}; for other options remove it "
        "first"
    )


def split_of(id: str, splits: dict[str, float]) -> str:
    """The split of a video: by its id alone, so that it stays when videos are added."""
    place, end = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8]) / 2**64, 0.0
    for name, share in splits.items():
        end += share
        if place < end:
            return name
    return list(splits)[-1]


def _vocabulary(plan: Plan) -> tuple[str, ...]:
    named = sorted({label for source in plan.sources for label in source.labels})
    if plan.vocabulary is None:
        check_labelled(plan.sources)
        return tuple(named)
    if unknown := [label for label in named if label not in plan.vocabulary]:
        raise DataError(
            f"label {unknown[0]!r} is not in the vocabulary of --like; correct the label or extract without"
        )
    return plan.vocabulary


def _key(source: Source) -> str:
    """Name of a video's files: its id is no file name, and a changed file is another video."""
    try:
        state = source.path.stat()
        content = [state.st_size, state.st_mtime_ns]
    except OSError:
        content = []
    return hashlib.sha256(json.dumps([source.id, str(source.path.absolute()), *content]).encode()).hexdigest()[:32]


def _begin(folder: Path, digest: str) -> None:
    mark = folder / "settings"
    if not mark.exists() and (folder.parent / SHARDS).exists():
        raise OutputError(f"{folder.parent}: holds shards already; choose another folder")
    make_folder(folder)
    if mark.exists() and mark.read_text() != digest:
        raise OutputError(
            f"{folder.parent}: was begun with other settings or models; remove it or choose another folder"
        )
    write_text(mark, digest)
    for path in folder.glob("*.failed"):
        path.unlink()


def _embed_all(
    jobs: Sequence[Job],
    settings: Settings,
    workers: int,
    models: Mapping[str, Model] | None,
    *,
    on_progress: OnProgress = silent,
) -> None:
    """On every rank: its share of the files."""
    # Asked of one rank, for another that looked later might find what this call has made.
    missing = distributed.on_rank_0(lambda: [job for job in jobs if not job.target.with_suffix(".npz").exists()])
    own = distributed.share_of_rank(missing)
    workers = workers or distributed.cores_per_rank() or os.cpu_count() or 1
    pace, told = Pace(), time.monotonic()
    with closing(embed_files(own, settings, workers, models)) as embedded:
        for number, _ in enumerate(embedded, start=1):
            speed, now = pace.speed(number, "videos"), time.monotonic()
            on_progress(Progress("extracting", number, len(own), "videos", speed))
            if now - told >= _SECONDS_PER_LINE or number == len(own):
                told = now
                parts = (f"{number}/{len(own)} videos", speed, pace.left(number, len(own)))
                log.debug("extracting: %s", ", ".join(filter(None, parts)))
    distributed.all_gather(1)


def _fit(plan: Plan, sources: Sequence[Source], folder: Path, on_progress: OnProgress) -> dict[str, Transform]:
    backbones = plan.settings.backbones
    begin(on_progress, _FITTING, len(backbones), "models")
    training = [folder / f"{_key(source)}.npz" for source in sources if _split(source, plan) == "train"]
    transforms = {}
    for done, backbone in enumerate(backbones, start=1):
        name = backbone.modality
        if backbone.whitened:
            transforms[name] = youtube8m_transform(backbone.embedding_size)
        elif sum(map(len, _embeddings(training, name))) < 2:
            raise DataError(f"no training video has {name}; leave its model out (`none`) or give more videos")
        else:
            transforms[name] = fit_transform(_embeddings(training, name), plan.sizes[name])
        on_progress(Progress(_FITTING, done, len(backbones), "models"))
    return transforms


def _embeddings(files: Sequence[Path], modality: str) -> Iterator[np.ndarray]:
    """Blocks of the steps that are there, float32 or uint8 `[B, D]`."""
    for file in files:
        embedded = load(file)
        values, present = embedded.embeddings[modality], embedded.present[modality]
        for first in range(0, len(values), BLOCK):
            block = slice(first, first + BLOCK)
            if present[block].any():
                yield values[block][present[block]]


def _split(source: Source, plan: Plan) -> str:
    return source.split or split_of(source.id, plan.splits)


def _write(
    plan: Plan,
    sources: Sequence[Source],
    folder: Path,
    output: Path,
    extractor: Extractor,
    vocabulary: Sequence[str],
    on_progress: OnProgress,
) -> float:
    """Shards and tables; returns the seconds of all videos."""
    begin(on_progress, _WRITING, len(sources), "videos")
    shards = output / SHARDS
    make_folder(shards)
    # A killed call may have had other splits.
    for path in shards.glob("*.tfrecord"):
        path.unlink()
    index = {name: number for number, name in enumerate(vocabulary)}
    rows, intervals, seconds = [], [], 0.0
    alike: dict[bytes, list[str]] = {}
    by_split: dict[str, list[Source]] = {}
    # Shuffled by a hash, for the ids of a folder may be in the order of its labels.
    for source in sorted(sources, key=lambda source: hashlib.sha256(source.id.encode()).digest()):
        by_split.setdefault(_split(source, plan), []).append(source)

    def videos(split: str, members: Sequence[Source]) -> Iterator[Video]:
        nonlocal seconds
        for source in members:
            embedded = load(folder / f"{_key(source)}.npz")
            alike.setdefault(_digest(embedded), []).append(source.id)
            path = str(source.path.absolute())
            rows.append([source.id, split, f"{embedded.duration:.3f}", "; ".join(embedded.notes), path])
            intervals.extend(interval_rows(source, embedded.duration))
            seconds += embedded.duration
            frames = to_frames(embedded, extractor, plan.carried)
            yield Video(source.id, frames, np.array(sorted(index[label] for label in source.labels), np.int64))
            on_progress(Progress(_WRITING, len(rows), len(sources), "videos"))

    for split, members in by_split.items():
        for number, first in enumerate(range(0, len(members), _VIDEOS_A_SHARD)):
            path = shards / f"{split}-{number:04d}.tfrecord"
            write_shard(path, videos(split, members[first : first + _VIDEOS_A_SHARD]))
    _tell_of_same_features([sorted(ids) for ids in alike.values() if len(ids) > 1])
    write_table(output / VIDEOS, ["id", "split", "duration", "notes", "path"], sorted(rows))
    (output / SEGMENTS).unlink(missing_ok=True)
    if intervals:
        write_table(output / SEGMENTS, ["path", "label", "start", "end"], sorted(intervals))
        log.warning(
            "extracting: %d intervals are kept in %s; in the shards their labels hold for the whole video",
            len(intervals),
            output / SEGMENTS,
        )
    write_table(output / VOCABULARY, ["label_id", "label_name"], enumerate(vocabulary))
    return seconds


def interval_rows(source: Source, duration: float) -> list[list[str]]:
    """The rows of a video in `segments.csv`: id, label, start, end."""
    # A table may say `inf` for the end of the video.
    return [
        [source.id, label, f"{start:.3f}", f"{duration if math.isinf(end) else end:.3f}"]
        for label, start, end in map(astuple, source.intervals)
    ]


def _digest(embedded: Embedded) -> bytes:
    """The same for two copies of a video, whatever their names and containers are."""
    return hashlib.sha256(b"".join(values.tobytes() for values in embedded.embeddings.values())).digest()


def _tell_of_same_features(groups: list[list[str]]) -> None:
    if groups:
        first, second, *_ = min(groups)
        log.warning(
            "extracting: %s has the same features as %s (such videos in all: %d); if they are copies, keep one of "
            "each, and name several labels in a table",
            second,
            first,
            sum(map(len, groups)) - len(groups),
        )


def to_frames(embedded: Embedded, extractor: Extractor, carried: CarriedModels | None) -> dict[str, np.ndarray]:
    """uint8 `[T, K]` by modality, of what the extractor's models gave, or those that a packed file carries."""
    if carried:
        return carried.frames(embedded)
    return {
        name: transform.apply(embedded.embeddings[name], embedded.present[name])
        for name, transform in extractor.transforms.items()
    }


def read_vocabulary(folder: Path) -> tuple[str, ...]:
    """That of a folder of features."""
    return Vocabulary.from_csv(folder / VOCABULARY).names
