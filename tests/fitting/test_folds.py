"""Parts of the videos: every label in its share, the same videos always in the same part."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fitting.making import write_videos
from vidfit.errors import DataError
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.fitting import folds
from vidfit.fitting.folds import divide, stratified

FIVE = [0.2] * 5


def farthest(labels: list[list[int]], part_of: np.ndarray, sizes: list[float]) -> float:
    """Of all labels and parts: by how many videos a part misses its share."""
    has_CV = np.array([[label in own for own in labels] for label in {it for own in labels for it in own}])
    return max(
        abs((has_V & (part_of == part)).sum() - size * has_V.sum())
        for has_V in has_CV
        for part, size in enumerate(sizes)
    )


@given(st.lists(st.integers(0, 5), min_size=10, max_size=150), st.sampled_from([FIVE, [0.9, 0.1], [0.5, 0.5]]))
def test_a_part_has_its_share_of_each_single_label(labels: list[int], sizes: list[float]):
    own = [[label] for label in labels]
    assert farthest(own, stratified([np.array(it) for it in own], sizes), sizes) < 1


@pytest.mark.parametrize("seed", range(5))
def test_a_fold_is_nearer_to_its_share_than_by_chance(seed: int):
    """Where labels meet in a video, no deal gives every part its share of all."""
    random = np.random.default_rng(seed)
    chances = 1 / np.arange(2, 22)  # of 20 labels, from one in two videos to one in twenty
    labels = [np.flatnonzero(random.random(20) < chances).tolist() for _ in range(300)]
    part_of = stratified([np.array(it, int) for it in labels], FIVE)
    by_chance = random.permutation(np.arange(300) % 5)
    assert set(part_of.tolist()) == set(range(5))
    assert farthest(labels, part_of, FIVE) < farthest(labels, by_chance, FIVE) / 2


@pytest.mark.parametrize("most", [1, 2, 4, 9])
def test_a_small_part_has_its_share_of_rare_labels(most: int):
    """Of each alone it wants less than one video. Without any it would be easier than videos are."""
    random = np.random.default_rng(most)
    own = np.repeat(np.arange(400), random.integers(1, most + 1, 400))
    part_of = stratified([np.array([label]) for label in own], [0.9, 0.1])
    assert (part_of == 1).mean() == pytest.approx(0.1, abs=0.01)


def test_videos_without_labels_fill_the_parts():
    part_of = stratified([np.array([], int)] * 50, FIVE)
    assert np.bincount(part_of).tolist() == [10] * 5


def ids(part: list[Path]) -> list[str]:
    return [video.id for shard in part for video in read_videos(shard) if isinstance(video, Video)]


def test_equal_ids_are_in_equal_parts_whatever_their_shards(tmp_path: Path):
    one = write_videos(tmp_path / "one.tfrecord", 60)
    videos = [video for video in read_videos(one) if isinstance(video, Video)]
    several = [tmp_path / f"{number}.tfrecord" for number in range(3)]
    for number, shard in enumerate(several):
        folds.write_shard(shard, videos[number::3])
    parts = [divide([one], 60, tmp_path / "a"), divide(several, 60, tmp_path / "b")]
    assert [ids(part) for part in parts[0]] == [ids(part) for part in parts[1]]
    assert sorted(id for part in parts[0] for id in ids(part)) == sorted(ids([one]))


def test_parts_that_were_stopped_at_the_last_are_finished(tmp_path: Path):
    """The last file was written, and the index does not say so yet."""
    given = [write_videos(tmp_path / "a.tfrecord", 60)], 60, tmp_path / "parts"
    whole, index = [ids(part) for part in divide(*given)], tmp_path / "parts" / "cache.json"
    document = json.loads(index.read_text())
    del document["shards"]["part-4.tfrecord"]
    index.write_text(json.dumps(document | {"missing": ["part-4.tfrecord"]}))
    assert [ids(part) for part in divide(*given)] == whole


def test_videos_without_a_label_do_not_make_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folds, "FEW_VIDEOS", 30)
    given = [write_videos(tmp_path / "a.tfrecord", 60, labels=lambda number: [number % 4] * (number < 20))], 60
    assert len(divide(*given, tmp_path / "five", unlabelled=40)) == 5
    assert len(divide(*given, tmp_path / "two", unlabelled=20)) == 2


def test_of_many_videos_a_part_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folds, "FEW_VIDEOS", 30)
    train, validation = divide([write_videos(tmp_path / "a.tfrecord", 60)], 60, tmp_path / "parts")
    assert len(ids(validation)) == pytest.approx(6, abs=1)
    assert len({*ids(train), *ids(validation)}) == 60


@pytest.mark.parametrize("limit", ["_WRITTEN_AGAIN", "_MOST_BYTES"])
def test_of_very_many_videos_whole_shards_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    monkeypatch.setattr(folds, "FEW_VIDEOS", 10)
    monkeypatch.setattr(folds, limit, 20)
    shards = [write_videos(tmp_path / f"{seed}.tfrecord", 20, seed) for seed in range(3)]
    train, validation = divide(shards, 60, tmp_path / "parts")
    assert sorted([*train, *validation]) == shards
    assert len(validation) == 1
    assert not (tmp_path / "parts").exists()
    with pytest.raises(DataError, match="is the only shard of 60 videos"):
        divide(shards[:1], 60, tmp_path / "parts")


def test_a_damaged_video_is_not_left_out_in_silence(tmp_path: Path):
    shard = write_videos(tmp_path / "a.tfrecord", 60)
    data = shard.read_bytes()
    shard.write_bytes(data[:400] + bytes([data[400] ^ 1]) + data[401:])
    with pytest.raises(CorruptRecordError, match=r"a\.tfrecord, record \d"):
        divide([shard], 60, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
