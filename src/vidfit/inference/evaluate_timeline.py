"""Measure a model's timeline on shards whose videos have known intervals."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidfit.errors import DataError, ModelFileError
from vidfit.evaluation.intervals import IntervalMetrics
from vidfit.features.batch import Batch
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import estimate_records, expand_shards
from vidfit.features.skipped import Skipped
from vidfit.inference.predictor import BATCH_SIZE, Predictor, load
from vidfit.inference.timeline import Timeline, TimelineOptions
from vidfit.progress import OnProgress, counter, silent
from vidfit.videos.extractor import steps_per_second
from vidfit.videos.sources import find_sources

log = logging.getLogger(__name__)

Truth = dict[str, dict[int, list[tuple[float, float]]]]
"""Video id -> class -> (start, end) in seconds."""


def evaluate_timeline(
    model: Path | str,
    shards: str | Path | Sequence[str | Path],
    segments: Path | str,
    *,
    window: float | None = None,
    hop: float | None = None,
    threshold: float = 0.5,
    skip_corrupt: bool = False,
    threads: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Measure when a model says that labels hold.

    Arguments:
        model: a packed file, or a member: its folder or file.
        shards: TFRecord files, folders of them, caches, or globs; one or several.
        segments: a table with a row per interval: `path,label,start,end`, in seconds; `path` is a video's id in the
            shards. `vidfit extract` leaves it as `segments.csv`. Other tables that `extract` takes work too.
        window, hop, threshold: of the timeline, as in `vidfit.label`.
        For the others see `vidfit.evaluate`.

    Returns:
        `timeline_map`, `timeline_overlap`, `videos`, `cells`, and `labels` with the figures of each (see
        `IntervalMetrics.result`); `timeline`, which probabilities were used; `threshold`; `unlabelled`, videos without
        labels and intervals; what was skipped; and `seconds` of wall time.

    Raises:
        DataError: the table is wrong, or names a label that the model lacks. Or a labelled video of the shards has no
            row.
        ModelFileError: the model cannot be read, or has one frame per video.
    """
    begun, options = time.perf_counter(), TimelineOptions(window, hop, threshold)
    predictor = load(model, threads, batch_size=batch_size)
    if predictor.spec.level == "video":
        raise ModelFileError(f"{model}: reads one frame per video, so it has no timeline; take a frame-level model")
    truth = _read_truth(Path(segments), predictor)
    paths = expand_shards([shards] if isinstance(shards, str | Path) else shards, log.warning)
    timeline = Timeline(predictor, steps_per_second(predictor.extractor, paths), options)
    batches = predictor.batches(paths, len(predictor.vocabulary), skip_corrupt)
    metrics, skipped, seen = IntervalMetrics(predictor.vocabulary), Skipped(), set()
    show, total = counter(on_progress, "evaluating", "videos"), estimate_records(paths)
    for batch in read_ahead(batches):
        skipped += batch.skipped
        _check_batch(batch, Path(segments), truth, seen)
        for id, frames in _videos(batch):
            _, probabilities_TC = timeline.probabilities(frames)
            metrics.update(probabilities_TC, timeline.rate, truth.get(id, {}), timeline.intervals(probabilities_TC))
            seen.add(id)
            show(len(seen), max(total, len(seen)))
    _check_used(Path(segments), truth, seen, metrics.late)
    result = metrics.result()
    if math.isnan(result["timeline_map"]):
        raise DataError(f"{segments}: no interval covers the middle of a second of these videos; give seconds")
    passed = {"skipped": skipped.records, "skipped_bytes": skipped.bytes, "unlabelled": len(seen - truth.keys())}
    seconds = time.perf_counter() - begun
    return {"timeline": timeline.method, "threshold": options.threshold, **result, **passed, "seconds": seconds}


def _read_truth(segments: Path, predictor: Predictor) -> Truth:
    classes = {name: index for index, name in enumerate(predictor.vocabulary)}
    truth: Truth = {}
    for source in find_sources([segments]):
        if missing := source.labels - {interval.label for interval in source.intervals}:
            raise DataError(f"{segments}: {source.id} has {min(missing)!r} without an interval; give its start and end")
        of_video = truth.setdefault(source.id, {})
        for interval in source.intervals:
            if interval.label not in classes:
                raise DataError(
                    f"{segments}: {source.id} has label {interval.label!r}, which the model does not know; "
                    "correct the label or remove its rows"
                )
            of_video.setdefault(classes[interval.label], []).append((interval.start, interval.end))
    if not any(truth.values()):
        raise DataError(f"{segments}: has no intervals; give a table with the header path,label,start,end")
    return truth


def _check_batch(batch: Batch, segments: Path, truth: Truth, seen: set[str]) -> None:
    """Raises DataError for a video that was seen before, or one with labels and without a row."""
    again = set(batch.ids) & seen or {id for id in batch.ids if batch.ids.count(id) > 1}
    if again:
        raise DataError(f"video {min(again)!r} is in the shards twice; evaluate each once")
    for id, labels in zip(batch.ids, batch.label_counts.tolist(), strict=True):
        if labels and id not in truth:
            raise DataError(
                f"{segments}: has no row for video {id!r}, which has labels in the shards; add its rows "
                f"(its paths, such as {next(iter(truth))!r}, must be ids of videos)"
            )


def _videos(batch: Batch) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Id and frames `[T, D]` by modality of each video."""
    lengths = batch.num_frames.tolist()
    parts = {name: whole.split(lengths) for name, whole in batch.frames.items()}
    for place, id in enumerate(batch.ids):
        yield id, {name: part[place].numpy() for name, part in parts.items()}


def _check_used(segments: Path, truth: Truth, seen: set[str], late: int) -> None:
    """Warn of rows that were not used.

    Raises:
        DataError: none was.
    """
    others = [id for id in truth if id not in seen]
    if len(others) == len(truth):
        raise DataError(
            f"{segments}: none of its videos, such as {others[0]!r}, is in the shards; its paths must be ids"
        )
    if others:
        log.warning(
            "evaluating: %d of %d videos in %s, such as %r, are not in these shards",
            len(others), len(truth), segments, others[0],
        )  # fmt: skip
    if late:
        log.warning("evaluating: %d intervals begin after the end of their video and do not count", late)
