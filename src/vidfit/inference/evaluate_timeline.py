"""Measure a model's timeline: against a table of intervals, or against the rated segments in the shards."""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidfit.errors import DataError
from vidfit.evaluation.intervals import IntervalMetrics, over_segments
from vidfit.evaluation.segment_metrics import SegmentMetrics
from vidfit.features.segments import check_row, rated_by_intervals
from vidfit.inference.predictor import BATCH_SIZE
from vidfit.inference.shard_timelines import ShardTimelines
from vidfit.inference.timeline import TimelineOptions
from vidfit.progress import OnProgress, silent
from vidfit.videos.sources import IntervalsByVideo, read_intervals

log = logging.getLogger(__name__)


def evaluate_timeline(
    model: Path | str,
    shards: str | Path | Sequence[str | Path],
    segments: Path | str,
    *,
    window: float | None = None,
    hop: float | None = None,
    threshold: float | None = None,
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
        `IntervalMetrics.result`); `map_at_k` of segments of 5 seconds (see `SegmentMetrics`), in which a label holds if
        an interval contains the middle; `timeline`, which probabilities were used; `threshold`, or `each label's
        own`; `unlabelled`, videos without labels and intervals; what was skipped; and `seconds` of wall time.

    Raises:
        DataError: the table is wrong, or names a label that the model lacks. Or a labelled video of the shards has no
            row.
        ModelFileError: the model cannot be read, or has one frame per video.
    """
    begun, options = time.perf_counter(), TimelineOptions(window, hop, threshold)
    passed = {"skip_corrupt": skip_corrupt, "threads": threads, "batch_size": batch_size, "on_progress": on_progress}
    videos = ShardTimelines(model, shards, options, "evaluating", **passed)
    timeline, names = videos.timeline, videos.predictor.vocabulary
    truth = read_intervals(Path(segments), names)
    metrics, by_segment = IntervalMetrics(names), SegmentMetrics(names)
    for video in videos:
        check_row(video.id, video.labelled, truth, segments)
        true = truth.get(video.id, {})
        metrics.update(video.probabilities_TC, timeline.rate, true, timeline.intervals(video.probabilities_TC))
        probabilities_SC = over_segments(video.probabilities_TC, timeline.rate)
        by_segment.update(probabilities_SC, rated_by_intervals(true, len(probabilities_SC), len(names)))
    _check_used(Path(segments), truth, videos.seen, metrics.late)
    result = metrics.result()
    if math.isnan(result["timeline_map"]):
        raise DataError(f"{segments}: no interval covers the middle of a second of these videos; give seconds")
    labels = result.pop("labels")
    return {
        "timeline": timeline.method,
        "threshold": timeline.threshold,
        **result,
        "map_at_k": by_segment.result()["map_at_k"],
        "labels": labels,
        "skipped": videos.skipped.records,
        "skipped_bytes": videos.skipped.bytes,
        "unlabelled": len(videos.seen - truth.keys()),
        "seconds": time.perf_counter() - begun,
    }


def evaluate_segments(
    model: Path | str,
    shards: str | Path | Sequence[str | Path],
    *,
    window: float | None = None,
    hop: float | None = None,
    skip_corrupt: bool = False,
    threads: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Measure how well a model ranks the segments that people rated, as in YouTube-8M 2019.

    Arguments:
        For all see `evaluate_timeline`.

    Returns:
        `map_at_k`, `k`, `segments` and `labels` (see `SegmentMetrics.result`); `timeline`, which probabilities were
        used; `videos`; what was skipped; and `seconds` of wall time.

    Raises:
        DataError: the shards hold no rated segment in which a label holds.
        ModelFileError: the model cannot be read, or has one frame per video.
    """
    begun, options = time.perf_counter(), TimelineOptions(window, hop)
    passed = {"skip_corrupt": skip_corrupt, "threads": threads, "batch_size": batch_size, "on_progress": on_progress}
    videos = ShardTimelines(model, shards, options, "evaluating", **passed)
    metrics = SegmentMetrics(videos.predictor.vocabulary)
    for video in videos:
        metrics.update(over_segments(video.probabilities_TC, videos.timeline.rate), video.segments)
    result = metrics.result()
    if math.isnan(result["map_at_k"]):
        raise DataError(
            f"none of the {len(videos.seen)} videos has a rated segment in which a label holds; give shards with "
            "segment_labels, or a table of intervals"
        )
    if metrics.off_grid:
        log.warning("evaluating: %d ratings are of segments that do not start at 0, 5, 10, ...", metrics.off_grid)
    labels = result.pop("labels")
    return {
        "timeline": videos.timeline.method,
        **result,
        "videos": len(videos.seen),
        "labels": labels,
        "skipped": videos.skipped.records,
        "skipped_bytes": videos.skipped.bytes,
        "seconds": time.perf_counter() - begun,
    }


def _check_used(segments: Path, truth: IntervalsByVideo, seen: set[str], late: int) -> None:
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
