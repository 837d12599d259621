"""What `write_shard` takes, and what it refuses: never a frame dropped or a value cast without a word."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vidfit
from vidfit.errors import DataError
from vidfit.features.example import read_examples, write_shard
from vidfit.features.spec import Video

FRAMES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def video(frames: Any = FRAMES, id: Any = "a", labels: Any = (1,), **more: Any) -> Video:
    return Video(id, {"clip": frames, **more}, labels)


def written(tmp_path: Path, *videos: Video) -> list[Video]:
    write_shard(tmp_path / "some.tfrecord", videos)
    found = list(read_examples(tmp_path / "some.tfrecord"))
    assert all(isinstance(one, Video) for one in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        (np.zeros((30, 512), np.float32), r"is float32 \[30, 512\]; .*vidfit\.quantize_frames"),
        (np.zeros((1, 512)), r"is float64 \[1, 512\]; .*float32 \[1, D\]"),
        (np.zeros((3, 4), np.int8), r"is int8 \[3, 4\]; give uint8 \[T, D\]"),
        (np.zeros((3, 4), np.int64), r"is int64 \[3, 4\]"),
        (np.zeros(16, np.uint8), r"is uint8 \[16\]"),
        (np.zeros((2, 3, 16), np.uint8), r"is uint8 \[2, 3, 16\]"),
        (np.zeros((0, 16), np.uint8), r"is uint8 \[0, 16\]"),
        (torch.zeros(30, 512), r"is float32 \[30, 512\]"),
        ([[0, 256]], r"is int64 \[1, 2\]"),
        ([[0], [1, 2]], "cannot be made an array"),
        (np.array([[np.nan, 1]], np.float32), "not finite"),
        (np.array([[1]], np.float32), "single float"),
    ],
    ids=str,
)
def test_frames_that_no_shard_holds_are_named(tmp_path: Path, frames: Any, problem: str):
    with pytest.raises(DataError, match=f"^video 'b', feature 'clip': .*{problem}") as caught:
        write_shard(tmp_path / "some.tfrecord", [video(), video(frames, "b")])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"labels": [0.5]}, r"labels are float64 \[1\]"),
        ({"labels": np.array([True, False])}, r"labels are bool \[2\].*flatnonzero"),
        ({"labels": [[1], [2]]}, r"labels are int64 \[2, 1\]"),
        ({"labels": [-1, 3]}, "labels have -1"),
        ({"id": 1.5}, "id is a float"),
        ({"id": None}, "id is a NoneType"),
        ({"id": b"\xff"}, "not UTF-8"),
        ({"id": "\ud800"}, "not UTF-8"),
        ({"sound": np.zeros((2, 4), np.uint8)}, "differ in frames"),
        ({"sound": np.zeros((1, 4), np.float32)}, "differ in frames"),
        ({"num_frames": FRAMES}, "'num_frames' is taken"),
        ({"sound": FRAMES}, "and video 'a' before it"),
    ],
    ids=str,
)
def test_what_else_a_shard_cannot_hold(tmp_path: Path, changed: dict[str, Any], problem: str):
    with pytest.raises(DataError, match=f"^video .*{problem}"):
        write_shard(tmp_path / "some.tfrecord", [video(), video(**{"id": "b", **changed})])
    assert not list(tmp_path.iterdir())


def test_a_video_level_feature_named_id_would_be_lost(tmp_path: Path):
    one = Video("a", {"id": np.ones((1, 4), np.float32)}, np.array([1]))
    with pytest.raises(DataError, match="cannot be called 'id'"):
        write_shard(tmp_path / "some.tfrecord", [one])


@pytest.mark.parametrize("frames", [FRAMES.tolist(), torch.from_numpy(FRAMES), np.asfortranarray(FRAMES)], ids=type)
def test_what_plainly_means_frames_is_taken(tmp_path: Path, frames: Any):
    (found,) = written(tmp_path, video(frames))
    np.testing.assert_array_equal(found.frames["clip"], FRAMES, strict=True)


@pytest.mark.parametrize(
    "labels", [[5, 1, 5], (1, 5), {5, 1}, torch.tensor([5, 1]), np.array([1, 5], np.uint16)], ids=str
)
def test_what_plainly_means_labels_is_taken(tmp_path: Path, labels: Any):
    assert written(tmp_path, video(labels=labels))[0].labels.tolist() == [1, 5]


@pytest.mark.parametrize("labels", [[], None, np.array([])], ids=str)
def test_no_labels_are_no_labels(tmp_path: Path, labels: Any):
    assert written(tmp_path, video(labels=labels))[0].labels.tolist() == []


@pytest.mark.parametrize(("id", "expected"), [(7, "7"), (np.int64(8), "8"), (b"xyz", "xyz")], ids=str)
def test_numbers_and_bytes_are_ids(tmp_path: Path, id: Any, expected: str):
    assert written(tmp_path, video(id=id))[0].id == expected


def test_a_list_of_floats_is_a_pooled_frame(tmp_path: Path):
    (found,) = written(tmp_path, video([[0.5, -1.5]]))
    np.testing.assert_array_equal(found.frames["clip"], np.array([[0.5, -1.5]], np.float32), strict=True)


def read_back(codes: np.ndarray) -> np.ndarray:
    """What bytes stand for (see `Modality`)."""
    return (codes * (4 / 255) + 4 / 512 - 2).astype(np.float32)


def test_quantized_floats_come_back_within_a_step():
    values = np.random.default_rng(0).uniform(-2, 2, (50, 20)).astype(np.float32)
    quantized = vidfit.quantize_frames(values)
    assert quantized.dtype == np.uint8
    assert np.abs(read_back(quantized) - values).max() <= 4 / 255
    assert vidfit.quantize_frames(np.array([-9, -2, 2, 9])).tolist() == [0, 0, 255, 255]
    with pytest.raises(DataError, match="not finite"):
        vidfit.quantize_frames(np.array([np.inf]))


def test_every_byte_survives_floats_and_back():
    assert vidfit.quantize_frames(read_back(np.arange(256))).tolist() == list(range(256))
