"""Rated segments as videos of their own, and batches of them."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vidfit
from tests.features.test_segments import Rows, rated
from vidfit.errors import DataError
from vidfit.features.batch import collate
from vidfit.features.cache_writer import write_cache
from vidfit.features.clips import Clips
from vidfit.features.loader import Batches, NoRecordsError
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.features.spec import Video
from vidfit.features.tfrecord import CorruptRecordError

CLASSES = 4
CLIPS = Clips(context=3, rate=1, classes=CLASSES)


def video(rows: Rows, id: str = "a", frames: int = 20) -> Video:
    """Each frame holds its number."""
    numbers = np.arange(frames, dtype=np.uint8)[:, None].repeat(2, axis=1)
    return Video(id, {"rgb": numbers}, np.array([2]), rated(rows))


def numbers(clip: Video) -> list[int]:
    return clip.frames["rgb"][:, 0].tolist()


def test_a_clip_has_its_segment_and_the_context():
    rows = [(10, 15, 1, 1.0), (0, 5, 1, 0.0), (10, 15, 3, 0.0), (15, 20, 0, 1.0)]
    clips = list(CLIPS.of(video(rows)))
    assert [numbers(clip) for clip in clips] == [list(range(8)), list(range(7, 18)), list(range(12, 20))]
    assert [clip.labels.tolist() for clip in clips] == [[], [1], [0]]
    assert [len(clip.segments) for clip in clips] == [1, 2, 1]
    assert {clip.id for clip in clips} == {"a"}
    assert np.shares_memory(clips[0].frames["rgb"], clips[1].frames["rgb"])


def test_frames_follow_from_seconds_by_the_rate():
    (clip,) = Clips(context=1, rate=2, classes=CLASSES).of(video([(5, 10, 1, 1.0)]))
    assert numbers(clip) == list(range(8, 20))
    (clip,) = Clips(context=0, rate=0.4, classes=CLASSES).of(video([(10, 15, 1, 1.0)]))
    assert numbers(clip) == [4, 5]


@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 10))
def test_rounding_makes_no_frame(hundredths: int, frames: int, seconds: int):
    """At 0.35 frames a second, say, 60 segments of 20 s are 420 frames, which floats may miss."""
    rate = Fraction(hundredths, 100)
    made = list(Clips(0, float(rate), CLASSES, {"a": {}}, seconds).of(video([], frames=frames)))
    spans = [(k * seconds * rate, (k + 1) * seconds * rate) for k in range(math.ceil(frames / (seconds * rate)))]
    wanted = [list(range(math.floor(start), min(math.ceil(end), frames))) for start, end in spans]
    assert [numbers(clip) for clip in made] == wanted


def test_without_cutting_a_video_keeps_all_frames_and_ratings():
    rows = [(10, 15, 1, 1.0), (0, 5, 1, 0.0), (10, 15, 3, 0.0), (15, 20, 0, 1.0)]
    whole = Clips(context=None, rate=0.9, classes=CLASSES)
    assert list(whole.of(video([]))) == []
    videos = [*whole.of(video(rows, frames=17)), *whole.of(video(rows[:1], frames=17))]
    assert [numbers(one) for one in videos] == [list(range(17))] * 2
    assert [one.labels.tolist() for one in videos] == [[2]] * 2
    batch = collate(videos)
    assert whole.parts_of(batch).tolist() == [[0, 0, 5], [0, 9, 14], [0, 13, 17], [1, 9, 14]]
    targets, weights = batch.ratings(CLASSES)
    assert targets.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert weights.tolist() == [[0, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    with pytest.raises(CorruptRecordError, match="starts at 20 s"):
        list(whole.of(video([(20, 25, 1, 1.0)], frames=17)))


def test_a_video_without_ratings_has_no_clips():
    assert list(CLIPS.of(video([]))) == []


def test_a_segment_after_the_end_is_damage():
    with pytest.raises(CorruptRecordError, match=r"video 'a': a rated segment starts at 20 s, and its 20 frames"):
        list(CLIPS.of(video([(20, 25, 1, 1.0)])))


def test_a_table_rates_every_label_in_every_segment():
    clips = Clips(0, 1, CLASSES, {"a": {1: [(0, 4)], 3: [(4, 9)]}}, table="segments.csv")
    made = list(clips.of(video([(0, 5, 2, 1.0)])))
    assert [clip.labels.tolist() for clip in made] == [[1], [3], [], []]
    assert all(len(clip.segments) == CLASSES for clip in made)
    by_second = Clips(0, 1, CLASSES, {"a": {1: [(0, 4)], 3: [(4, 9)]}}, seconds=1)
    made = list(by_second.of(video([])))
    assert [clip.labels.tolist() for clip in made] == [[1]] * 4 + [[3]] * 5 + [[]] * 11
    assert all(clip.num_frames == 1 for clip in made)
    with pytest.raises(DataError, match=r"segments\.csv: has no row for video 'b', which has labels"):
        list(clips.of(video([], id="b")))
    unlabelled = Video("c", video([]).frames, np.array([], np.int64))
    assert [clip.labels.tolist() for clip in clips.of(unlabelled)] == [[], [], [], []]


def test_unrated_labels_weigh_0_and_the_last_rating_counts():
    rows = [(0, 5, 1, 1.0), (0, 5, 2, 0.0), (5, 10, 3, 0.0), (5, 10, 3, 1.0)]
    targets_BC, weights_BC = collate(list(CLIPS.of(video(rows)))).ratings(CLASSES)
    assert targets_BC.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert weights_BC.tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert targets_BC.dtype == weights_BC.dtype == torch.float32


@pytest.mark.parametrize("kind", ["shards", "cache"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_each_rated_segment_once(tmp_path: Path, kind: str, workers: int):
    for part in range(2):
        made = [
            video([(5 * n, 5 * n + 5, 1, 1.0) for n in range(number % 4)], f"{part}-{number}") for number in range(11)
        ]
        vidfit.write_shard(tmp_path / f"{part}.tfrecord", made)
    shards = expand_shards([tmp_path])
    spec = infer_spec(shards)
    if kind == "cache":
        write_cache(shards, tmp_path / "cache", "id", spec)
        shards = expand_shards([tmp_path / "cache"])
    batches = Batches(shards, spec, CLASSES, 4, shuffle_buffer=5, workers=workers, clips=CLIPS)
    expected = Counter(
        (f"{part}-{number}", 5 * n) for part in range(2) for number in range(11) for n in range(number % 4)
    )
    for epoch in range(2):
        found = Counter()
        for batch in batches.epoch(epoch):
            assert len(batch) <= 4
            found.update((id, int(own.starts[0])) for id, own in zip(batch.ids, batch.segments, strict=True))
        assert found == expected
    first = [batch.ids for batch in batches.epoch(0)]
    assert [batch.ids for batch in batches.epoch(0, start=2)] == first[2:]
    assert first != [batch.ids for batch in batches.epoch(1)]


def test_shards_without_ratings_are_refused(tmp_path: Path):
    vidfit.write_shard(tmp_path / "some.tfrecord", [video([])])
    shards = [tmp_path / "some.tfrecord"]
    with pytest.raises(NoRecordsError, match=r"some\.tfrecord and 0 more shards hold no rated segment; give"):
        list(Batches(shards, infer_spec(shards), CLASSES, 4, clips=CLIPS))
