"""What `inspect` says of real and of small shards."""

from pathlib import Path

import numpy as np
import pytest

from vidfit.errors import DataError
from vidfit.features.example import to_sequence_example
from vidfit.features.inspect import inspect_shards
from vidfit.features.shards import expand_shards
from vidfit.features.spec import Video
from vidfit.features.tfrecord import CorruptRecordError, write_records


def record(frames: int, labels: list[int], size: int = 3) -> bytes:
    arrays = {"sound": np.zeros((frames, size), np.uint8), "image": np.zeros((frames, 5), np.uint8)}
    return to_sequence_example(Video("a", arrays, np.array(labels, np.int64)))


def test_counts_over_several_shards(tmp_path: Path):
    write_records(tmp_path / "a", [record(4, [7, 1]), record(1, [])])
    write_records(tmp_path / "b", [record(2, [7])])
    assert inspect_shards([tmp_path / "a", tmp_path / "b"]) == {
        "records": 3,
        "level": "frame",
        "id_key": "id",
        "features": {"image": 5, "sound": 3},
        "frames": {"min": 1, "mean": 7 / 3, "max": 4},
        "labels": {"distinct": 2, "mean_per_video": 1.0, "unlabelled": 1},
        "segments": {"rated": 0, "positive": 0, "videos": 0, "labels": 0},
        "corrupt": 0,
        "corrupt_bytes": 0,
    }


def test_damaged_and_deviating_records_are_named(tmp_path: Path):
    write_records(tmp_path / "damaged", [record(1, []), b"no protobuf"])
    with pytest.raises(CorruptRecordError, match="damaged, record 1"):
        inspect_shards([tmp_path / "damaged"])
    write_records(tmp_path / "deviating", [record(1, []), record(1, [], size=4)])
    with pytest.raises(DataError, match="deviating, record 1: feature 'sound' has 4 uint8 values a frame, expected 3"):
        inspect_shards([tmp_path / "deviating"])


def test_damaged_records_are_counted_on_request(tmp_path: Path):
    write_records(tmp_path / "shard", [b"no protobuf", record(3, [1]), record(0, []), record(5, [])])
    found = inspect_shards([tmp_path / "shard"], skip_corrupt=True)
    assert (found["records"], found["corrupt"], found["id_key"]) == (2, 2, "id")
    assert found["frames"] == {"min": 3, "mean": 4.0, "max": 5}


def test_real_corpora_are_as_described(data_dir: Path):
    frame_level = inspect_shards(expand_shards([data_dir / "audioset" / "eval"]))
    assert frame_level["records"] == 10_093
    assert frame_level["level"] == "frame"
    assert frame_level["id_key"] == "video_id"
    assert frame_level["features"] == {"audio_embedding": 128}
    assert frame_level["frames"] == {"min": 1, "mean": pytest.approx(9.94, abs=0.02), "max": 10}
    video_level = inspect_shards(expand_shards([data_dir / "yt8m-video-level" / "eval" / "eval0[0-2]*"]))
    assert video_level["level"] == "video"
    assert video_level["id_key"] == "id"
    assert video_level["features"] == {"mean_rgb": 1024, "mean_audio": 128}
    assert video_level["frames"] == {"min": 1, "mean": 1.0, "max": 1}
    assert 1 <= video_level["labels"]["mean_per_video"] <= 10
