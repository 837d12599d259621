"""What a set of shards holds, counted by reading every record once in bounded memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidfit.features.shards import infer_id_key, infer_spec, read_videos
from vidfit.features.skipped import Skipped
from vidfit.features.tfrecord import CorruptRecordError


def inspect_shards(shards: Sequence[Path], skip_corrupt: bool = False) -> dict[str, Any]:
    """Counts of a set of shards, ready for JSON.

    Arguments:
        shards: TFRecord files or those of a cache.
        skip_corrupt: count damaged records instead of stopping at the first.

    Returns:
        `records`; `level`, "frame" or "video"; `id_key`, "id" or "video_id"; `features`, name -> size;
        `frames`, `min`, `mean` and `max` of a video; `labels`, `distinct` ones, `mean_per_video` and
        `unlabelled`, the videos without one; `segments`, how many are `rated` (once per label), how many of these are
        `positive`, in how many `videos` and for how many `labels`; `corrupt`, the damaged records, which the other
        figures leave out, and `corrupt_bytes`, what they take.

    Raises:
        DataError: a record is damaged or differs in its features from the first one, or there is none.
    """
    spec = infer_spec(shards, skip_corrupt)
    records = frames = labels = unlabelled = longest = 0
    rated = positive = rated_videos = 0
    skipped = Skipped()
    shortest: int | None = None
    distinct: set[int] = set()
    distinct_rated: set[int] = set()
    for shard in shards:
        for video in read_videos(shard, spec):
            if isinstance(video, CorruptRecordError):
                if not skip_corrupt:
                    raise video
                skipped += video.skipped
                continue
            records += 1
            frames += video.num_frames
            longest = max(longest, video.num_frames)
            shortest = min(shortest or video.num_frames, video.num_frames)
            labels += len(video.labels)
            unlabelled += not len(video.labels)
            distinct.update(video.labels.tolist())
            rated += len(video.segments)
            positive += int((video.segments.scores > 0).sum())
            rated_videos += len(video.segments) > 0
            distinct_rated.update(video.segments.labels.tolist())
    return {
        "records": records,
        "level": spec.level,
        "id_key": infer_id_key(shards),
        "features": {modality.name: modality.size for modality in spec.modalities},
        "frames": {"min": shortest, "mean": frames / records, "max": longest},
        "labels": {"distinct": len(distinct), "mean_per_video": labels / records, "unlabelled": unlabelled},
        "segments": {"rated": rated, "positive": positive, "videos": rated_videos, "labels": len(distinct_rated)},
        "corrupt": skipped.records,
        "corrupt_bytes": skipped.bytes,
    }
