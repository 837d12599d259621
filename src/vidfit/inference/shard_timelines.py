"""Timelines of the videos in some shards, one after another: for the evaluations, and for predictions of segments."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidfit.errors import DataError, ModelFileError
from vidfit.features.prefetch import read_ahead
from vidfit.features.segments import RatedSegments
from vidfit.features.shards import estimate_records, expand_shards
from vidfit.features.skipped import Skipped
from vidfit.inference.predictor import BATCH_SIZE, Predictor, load
from vidfit.inference.timeline import Timeline, TimelineOptions
from vidfit.progress import OnProgress, counter, silent
from vidfit.videos.extractor import steps_per_second

log = logging.getLogger(__name__)


class TimedVideo(NamedTuple):
    """A video of the shards, with its probabilities `[T, C]` float32 over time."""

    id: str
    labelled: bool
    segments: RatedSegments
    probabilities_TC: np.ndarray


class ShardTimelines:
    """Iterates over the videos of some shards, each once.

    Arguments:
        model: a packed file, or a member: its folder or file.
        shards: TFRecord files, folders of them, caches, or globs; one or several.
        options: of the timelines.
        stage: what is being done, for the progress.
        For the others see `vidfit.evaluate`.

    Raises:
        ModelFileError: the model cannot be read, or has one frame per video.
        DataError: no shard is found. While iterating: a record is damaged or does not fit the model, or a video is
            there twice.
    """

    def __init__(
        self,
        model: Path | str,
        shards: str | Path | Sequence[str | Path],
        options: TimelineOptions,
        stage: str,
        *,
        skip_corrupt: bool = False,
        threads: int = 0,
        batch_size: int = BATCH_SIZE,
        on_progress: OnProgress = silent,
    ) -> None:
        self.predictor: Predictor = load(model, threads, batch_size=batch_size)
        if self.predictor.spec.level == "video":
            raise ModelFileError(f"{model}: reads one frame per video, so it has no timeline; take a frame-level model")
        paths = expand_shards([shards] if isinstance(shards, str | Path) else shards, log.warning)
        self.timeline = Timeline(self.predictor, steps_per_second(self.predictor.extractor, paths), options)
        self.seen: set[str] = set()
        """Ids of the videos so far."""
        self.skipped = Skipped()
        """What was left out so far."""
        self._batches = self.predictor.batches(paths, len(self.predictor.vocabulary), skip_corrupt)
        self._on_count, self._total = counter(on_progress, stage, "videos"), estimate_records(paths)

    def __iter__(self) -> Iterator[TimedVideo]:
        for batch in read_ahead(self._batches):
            self.skipped += batch.skipped
            lengths = batch.num_frames.tolist()
            parts = {name: whole.split(lengths) for name, whole in batch.frames.items()}
            for place, id in enumerate(batch.ids):
                if id in self.seen:
                    raise DataError(f"video {id!r} is in the shards twice; give each once")
                self.seen.add(id)
                frames = {name: part[place].numpy() for name, part in parts.items()}
                _, probabilities_TC = self.timeline.probabilities(frames)
                yield TimedVideo(id, bool(batch.label_counts[place]), batch.segments[place], probabilities_TC)
                self._on_count(len(self.seen), max(self._total, len(self.seen)))
