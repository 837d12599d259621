"""A shard goes by its content, which is read once."""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.features.test_loader import SPEC, damage_data, make_video, write_shards
from vidfit.errors import DataError
from vidfit.features import survey
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import write_shard
from vidfit.features.shards import expand_shards
from vidfit.features.spec import Video
from vidfit.features.survey import survey_shards


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where surveys are kept; files count as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(survey, "_TICK", 0)
    return tmp_path / "home"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were read."""
    names: list[str] = []
    for function in ("_survey_records", "_survey_cached"):
        whole = getattr(survey, function)
        monkeypatch.setattr(survey, function, lambda shard, whole=whole: (names.append(shard.name), whole(shard))[1])
    return names


def videos(labels: Sequence[Sequence[int]]) -> list[Video]:
    return [
        Video(f"v{number}", make_video(number).frames, np.array(own, np.int64)) for number, own in enumerate(labels)
    ]


def test_a_survey_counts_videos_and_labels(tmp_path: Path):
    path = tmp_path / "some.tfrecord"
    write_shard(path, videos([[3], [], [1, 9], [], [9]]))
    (found,) = survey_shards([path]).values()
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.videos, found.unlabelled, found.one_label, found.corrupt) == (5, 2, 2, 0)
    assert (found.lowest, found.highest) == (0, 9)
    assert found.count_positives(11).tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 2, 0]
    assert found.count_positives(4).tolist() == [0, 1, 0, 1]


def test_a_shard_without_labels_has_no_positives(tmp_path: Path):
    path = tmp_path / "some.tfrecord"
    write_shard(path, videos([[], []]))
    (found,) = survey_shards([path]).values()
    assert (found.lowest, found.highest, found.count_positives(2).tolist()) == (0, -1, [0, 0])


def test_corrupt_records_are_counted_apart(tmp_path: Path):
    (path,) = write_shards(tmp_path, [6])
    damage_data(path, [1, 4])
    found = survey_shards([path])[path]
    assert (found.videos, found.corrupt) == (4, 2)


def test_each_shard_is_read_once(tmp_path: Path, read: list[str]):
    shards = write_shards(tmp_path, [3, 0, 2])
    first = survey_shards(shards)
    assert sorted(read) == sorted(shard.name for shard in shards)
    assert survey_shards(shards) == first
    assert len(read) == 3


@pytest.mark.parametrize("how", ["in place", "replaced", "touched"])
def test_a_change_of_the_same_size_is_seen(tmp_path: Path, read: list[str], how: str):
    """Though its time of modification is put back, as `cp -p`, `rsync -t` and `tar` do."""
    path, other = tmp_path / "some.tfrecord", tmp_path / "other"
    write_shard(path, videos([[3], [4]]))
    write_shard(other, videos([[3], [5]]))
    before, times = survey_shards([path])[path], path.stat()
    assert path.stat().st_size == other.stat().st_size
    time.sleep(0.02)  # a tick of the file system's clock
    if how == "in place":
        path.write_bytes(other.read_bytes())
    elif how == "replaced":
        os.replace(other, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = survey_shards([path])[path]
    assert read == [path.name] * 2
    assert (after == before) == (how == "touched")


def test_a_file_that_has_just_changed_is_read_again(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch):
    """Within one tick of its clock the file system could not tell the next change."""
    monkeypatch.setattr(survey, "_TICK", 60)
    shards = write_shards(tmp_path, [2])
    survey_shards(shards)
    survey_shards(shards)
    assert len(read) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"shard0.tfrecord": 1}', '{"shard0.tfrecord": {"state": [1]}}'])
def test_a_damaged_record_of_surveys_is_made_again(tmp_path: Path, own_folder: Path, content: str):
    shards = write_shards(tmp_path, [2])
    expected = survey_shards(shards)
    (kept,) = own_folder.rglob("*.json")
    kept.write_text(content)
    assert survey_shards(shards) == expected


def test_surveys_need_no_place_to_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shards = write_shards(tmp_path, [2])
    expected = survey_shards(shards)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert survey_shards(shards) == expected


def test_a_cached_shard_goes_by_its_records(tmp_path: Path, read: list[str]):
    shards = [tmp_path / "some.tfrecord"]
    found = []
    for place, labels in enumerate(([[3], []], [[4], []])):
        write_shard(shards[0], videos(labels))
        write_cache(shards, tmp_path / f"cache{place}", "id", SPEC)
        (file,) = expand_shards([tmp_path / f"cache{place}"])
        found.append(survey_shards([file])[file])
    assert [(one.videos, one.unlabelled, one.highest) for one in found] == [(2, 1, 3), (2, 1, 4)]
    assert found[0].sha256 != found[1].sha256
    # The same records cached again are the same shard.
    shutil.copytree(tmp_path / "cache1", tmp_path / "copy")
    (file,) = expand_shards([tmp_path / "copy"])
    assert survey_shards([file])[file] == found[1]


def test_a_shard_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent\.tfrecord: cannot be read"):
        survey_shards([tmp_path / "absent.tfrecord"])
