"""Which videos measure a member, and which train it.

Few videos are cross-validated: each is predicted by members that have not seen it, and none is lost for training. Of
many videos some are set apart for validation.

Videos are dealt to parts label by label, the rarest label first, so that each part has its share of every label.

Source: Sechidis, Tsoumakas & Vlahavas 2011, "On the Stratification of Multi-Label Data", algorithm 1.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidfit.errors import DataError
from vidfit.features.cache import INDEX, file_of, read_index
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import write_shard
from vidfit.features.shards import infer_id_key, infer_spec, read_videos, size_of
from vidfit.features.spec import Video
from vidfit.files import make_folder, temporary

# Up to 2,000 labelled videos are cross-validated, unless there are more than five times as many in all.
FEW_VIDEOS, _MOST_WITH_FEW = 2_000, 5
_FOLDS = 5
# Of many videos, a part of these validates; the search looks at no more than it needs (`search/validation.py`).
_HELD_OUT, _MOST_HELD_OUT = 0.1, 2_048
# Above this many videos or bytes, whole shards validate: to write videos again, they must be held in memory.
_WRITTEN_AGAIN, _MOST_BYTES = 50_000, 4 * 10**9


def divide(
    shards: Sequence[Path], videos: int, folder: Path, skip_corrupt: bool = False, unlabelled: int = 0
) -> list[list[Path]]:
    """The videos in parts: `[part 0, ...]` to cross-validate, or `[training, validation]`.

    Arguments:
        shards: all videos.
        videos: how many they are.
        folder: a cache of the parts, if whole shards are none; that of an earlier call is reused. A training reads it
            three times as fast as shards.
        skip_corrupt: leave damaged records out.
        unlabelled: how many of them have no label.

    Raises:
        DataError: there are too few videos or shards.
    """
    # A part of few labelled videos would have too few to choose by.
    few = videos - unlabelled <= FEW_VIDEOS and videos <= _MOST_WITH_FEW * FEW_VIDEOS
    if videos > _WRITTEN_AGAIN or (not few and sum(map(size_of, shards)) > _MOST_BYTES):
        return _by_shards(shards, videos)
    if few:
        names, sizes = [f"part-{number}" for number in range(_FOLDS)], [1 / _FOLDS] * _FOLDS
    else:
        names, held_out = ["train", "validation"], min(_HELD_OUT, _MOST_HELD_OUT / videos)
        sizes = [1 - held_out, held_out]
    files = [file_of(folder, f"{name}.tfrecord") for name in names]
    if not _is_whole(folder, files):
        with temporary(folder.parent) as written:
            make_folder(written)
            parts = [written / f"{name}.tfrecord" for name in names]
            _write(shards, parts, sizes, skip_corrupt)
            write_cache(parts, folder, infer_id_key(parts), infer_spec(parts))
    return [[file] for file in files]


def _is_whole(folder: Path, files: Sequence[Path]) -> bool:
    """Whether an earlier call wrote all of these, and was not stopped before the index says so."""
    return (folder / INDEX).exists() and not read_index(folder).missing and all(file.exists() for file in files)


def _by_shards(shards: Sequence[Path], videos: int) -> list[list[Path]]:
    every = max(round(1 / _HELD_OUT), round(videos / _MOST_HELD_OUT))
    validation = list(shards[:: min(every, len(shards))])
    training = [shard for shard in shards if shard not in validation]
    if not training:
        raise DataError(f"{shards[0]}: is the only shard of {videos:,} videos; give them in at least two")
    return [training, validation]


def _write(shards: Sequence[Path], files: Sequence[Path], sizes: Sequence[float], skip_corrupt: bool) -> None:
    """Each part as one shard, its videos in the order of their ids' hashes."""
    videos = []
    for shard in shards:
        for video in read_videos(shard):
            if isinstance(video, Video):
                videos.append(video)
            elif not skip_corrupt:
                raise video
    videos.sort(key=lambda video: hashlib.sha256(video.id.encode()).digest())
    part_of = stratified([video.labels for video in videos], sizes)
    for part, file in enumerate(files):
        write_shard(file, (video for video, own in zip(videos, part_of, strict=True) if own == part))


def stratified(labels: Sequence[np.ndarray], sizes: Sequence[float]) -> np.ndarray:
    """The part of each video, int64 `[V]`.

    Arguments:
        labels: of each video, in the order in which equal ones are dealt.
        sizes: of each part, with sum 1.
    """
    part_of = np.full(len(labels), -1)
    wanted = np.array(sizes) * len(labels)
    having: dict[int, list[int]] = {}
    for video, own in enumerate(labels):
        for label in own.tolist():
            having.setdefault(label, []).append(video)
    wanted_of = {label: np.array(sizes) * len(videos) for label, videos in having.items()}
    owed = np.zeros(len(sizes))
    # The rarest first; the original counts anew after each label, which changes little and takes long.
    for label in sorted(having, key=lambda label: (len(having[label]), label)):
        # A small part's share of a rare label is less than one video. What it misses is added to its share of the next
        # rare label: with none of them, it would be too easy.
        rare = len(having[label]) * min(sizes) < 1
        if rare:
            wanted_of[label] += owed
        for video in having[label]:
            if part_of[video] < 0:
                # Of parts that want this label alike, the one that wants the video's other labels most.
                wanted_P = np.sum([wanted_of[own] for own in labels[video].tolist()], axis=0)
                part = max(range(len(sizes)), key=lambda part: (wanted_of[label][part], wanted_P[part], wanted[part]))
                part_of[video] = part
                wanted[part] -= 1
                for own in labels[video].tolist():
                    wanted_of[own][part] -= 1
        if rare:
            owed = wanted_of[label].clip(-0.5, 0.5)
    for video in np.flatnonzero(part_of < 0):
        part_of[video] = wanted.argmax()
        wanted[part_of[video]] -= 1
    return part_of
