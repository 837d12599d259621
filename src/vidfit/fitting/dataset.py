"""What `fit` is given: shards, a folder of features, or labelled videos, which are extracted first; and its check."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidfit.errors import DataError, OutputError
from vidfit.features.cache import INDEX
from vidfit.features.clips import Clips
from vidfit.features.shards import expand_shards, read_videos
from vidfit.features.spec import Video
from vidfit.files import matches, read_table, visible
from vidfit.progress import OnProgress
from vidfit.recipe import DataConfig
from vidfit.run_data import RunData, read_data, tell_of_labels
from vidfit.sizes import count_of
from vidfit.videos.backbones import find_backbone
from vidfit.videos.extractor import FILE as EXTRACTOR
from vidfit.videos.extractor import Settings
from vidfit.videos.sources import Source, read_intervals

_FEWEST_VIDEOS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Labelled videos as shards.

    Attributes:
        shards: the videos to learn from; which of them validate is decided later.
        eval: videos that are measured once, at the end. May be empty.
        vocabulary: a CSV of label names.
        intervals: a table of when labels hold; None if there is none.
    """

    shards: list[Path]
    eval: list[Path]
    vocabulary: Path
    intervals: Path | None = None


def find_dataset(
    data: Sequence[str], eval: Sequence[str], vocabulary: Path | str | None, output: Path, on_progress: OnProgress
) -> Dataset:
    """Shards of what was given.

    Arguments:
        data: one folder of features of `vidfit extract`; or shards; or videos: folders, files, tables.
        eval: shards to measure on. If empty, those of a folder of features.
        vocabulary: label names of shards; a folder of features has its own.
        output: the run folder; features of videos go to `features` in it.
        on_progress: called a few times a second.

    Raises:
        DataError: there is nothing of the kind, or the vocabulary is missing.
        OutputError: `output` holds features of other videos.
    """
    measured = expand_shards(eval) if eval else []
    if _are_shards(data):
        if not vocabulary:
            raise DataError("--vocabulary: shards have numbers for labels; give the CSV with their names")
        return Dataset(expand_shards(data), measured, Path(vocabulary))
    folder = Path(os.path.expanduser(data[0]))
    if are_videos(data):
        folder = output / "features"
        _extract(data, folder, on_progress)
    shards = folder / "shards"
    own = visible(shards, "eval*.tfrecord")
    learnt = [shard for shard in visible(shards, "*.tfrecord") if shard not in own]
    if not learnt:
        raise DataError(f"{shards}: has no shards but those for eval; extract some videos for training")
    intervals = folder / "segments.csv"
    names = Path(vocabulary or folder / "vocabulary.csv")
    return Dataset(expand_shards(learnt), measured or own, names, intervals if intervals.is_file() else None)


def complete_intervals(dataset: Dataset, data: RunData, rate: float, seconds: int) -> Path | None:
    """The table of intervals, if members can learn from it.

    Each label of each video to learn from must hold in a part of so many seconds, by its middle. Elsewhere it would
    count as wrong.
    """
    if dataset.intervals is None:
        return None
    table = read_intervals(dataset.intervals, data.vocabulary.names)
    clips = Clips(None, rate, len(data.vocabulary), table, seconds)
    videos = (video for shard in dataset.shards for video in read_videos(shard) if isinstance(video, Video))
    lacking = [video.id for video in videos if not clips.hold_all_labels(video)]
    if lacking:
        log.info(
            "%s: %s without an interval for a label, or with too short a one (%s, ...); members learn from labels "
            "alone",
            *(dataset.intervals, count_of(len(lacking), "video"), lacking[0]),
        )
        return None
    log.info("%s: members learn from it what holds in each second", dataset.intervals)
    return dataset.intervals


def read_dataset(dataset: Dataset, skip_corrupt: bool, on_progress: OnProgress) -> RunData:
    """What the shards hold, checked before anything is written or trained.

    Raises:
        DataError: there are too few videos or labels. Or a record is damaged or does not fit the vocabulary. Or the
            videos to measure on are among the training videos, or have other features.
    """
    train, measured = [str(shard) for shard in dataset.shards], [str(shard) for shard in dataset.eval]
    config = DataConfig(train=train, eval=measured, vocabulary=str(dataset.vocabulary), skip_corrupt=skip_corrupt)
    data = read_data(config, on_progress, vocabulary_key="--vocabulary")
    classes, surveys = len(data.vocabulary), [data.surveys[shard] for shard in dataset.shards]
    videos = sum(survey.videos for survey in surveys)
    labelled = videos - sum(survey.unlabelled for survey in surveys)
    _check_counts(labelled, classes)
    positives_C = np.sum([survey.count_positives(classes) for survey in surveys], axis=0)
    if not ((positives_C > 0) & (positives_C < videos)).any():
        raise DataError("all videos have the same labels, so there is nothing to choose; give videos of other labels")
    _check_frames(data)
    tell_of_labels(data, of_recipe=False)
    return data


def _check_counts(labelled: int, classes: int) -> None:
    """There are enough labelled videos, and labels to choose from."""
    if labelled < _FEWEST_VIDEOS:
        raise DataError(
            f"{labelled} labelled videos are too few to learn from and to choose by; give at least {_FEWEST_VIDEOS}"
        )
    if classes < 2:
        raise DataError("the vocabulary has one label; a second one, such as 'other', makes a choice")


def _check_frames(data: RunData) -> None:
    """Not all videos are the same. Reading ends at the first that differs."""
    first: dict[str, np.ndarray] = {}
    for shard in data.shards["train"]:
        for video in read_videos(shard):
            if isinstance(video, Video):
                first = first or dict(video.frames)
                if any(not np.array_equal(frames, first[name]) for name, frames in video.frames.items()):
                    return
    raise DataError(
        f"{data.shards['train'][0]}: all videos have the same frames, so nothing can be learnt; extract them again"
    )


def are_videos(data: Sequence[str]) -> bool:
    """Whether features have to be made of what `fit` is given: it is no shards, and no folder of features."""
    features = len(data) == 1 and (Path(os.path.expanduser(data[0])) / EXTRACTOR).is_file()
    return not features and not _are_shards(data)


def extraction_settings() -> Settings:
    """How videos are extracted."""
    return Settings(backbones=(find_backbone("efficientnet-lite0", "rgb"), find_backbone("yamnet", "audio")))


def _are_shards(data: Sequence[str]) -> bool:
    """Whether the first is a shard, a folder of shards, a cache, or a glob of shards."""
    first = Path(os.path.expanduser(data[0]))
    if not first.exists():
        first = next(iter(matches(str(first))), first)
    if first.is_dir():
        return (first / INDEX).is_file() or bool(visible(first, "*.tfrecord"))
    return first.suffix == ".tfrecord"


def _extract(sources: Sequence[str], folder: Path, on_progress: OnProgress) -> None:
    """Features of labelled videos. All are for training, but those that a table sets apart."""
    from vidfit.videos.decode import av
    from vidfit.videos.extract import EMBEDDINGS, Plan, extract
    from vidfit.videos.sources import check_labelled, find_sources

    av()
    found = find_sources(sources)
    check_labelled(found, sources)
    if (folder / EXTRACTOR).is_file() and not (folder / EMBEDDINGS).exists():
        if not _holds(folder, found):
            raise OutputError(
                f"{folder}: holds features of other videos, or other labels or intervals of them; choose another -o"
            )
        return
    learnt = [source for source in found if source.labels and source.split != "eval"]
    # Here too, for extraction takes long.
    _check_counts(len(learnt), len({label for source in found for label in source.labels}))
    plan = Plan(found, extraction_settings(), {"train": 1.0})
    made = extract(plan, folder, os.cpu_count() or 1, on_progress)
    if made.failed:
        log.warning("%s could not be read; %s says why", count_of(made.failed, "video"), folder / "failed.csv")


def _holds(folder: Path, sources: Sequence[Source]) -> bool:
    """Whether finished features are those of some videos, with the same labels, intervals and splits."""
    from vidfit.videos.extract import SEGMENTS, VIDEOS, interval_rows, read_vocabulary, readable

    good = readable(sources, folder)
    names, shards = read_vocabulary(folder), visible(folder / "shards", "*.tfrecord")
    videos = [video for shard in shards for video in read_videos(shard) if isinstance(video, Video)]
    labels = {video.id: {names[label] for label in video.labels} for video in videos}
    rows = {row["id"]: row for row in read_table(folder / VIDEOS)}
    wanted = {source.id: source.labels for source in good}, {source.id: source.split or "train" for source in good}
    if (labels, {id: row["split"] for id, row in rows.items()}) != wanted:
        return False
    kept = read_table(folder / SEGMENTS) if (folder / SEGMENTS).exists() else []
    given = [row for it in good if it.intervals for row in interval_rows(it, float(rows[it.id]["duration"]))]
    return sorted(list(row.values()) for row in kept) == sorted(given)
