"""Records to videos: the reference vectors, real records, round trips, and records that do not fit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vidfit.errors import DataError
from vidfit.features.example import (
    id_key,
    parse_example,
    read_examples,
    to_example,
    to_sequence_example,
    write_shard,
)
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import CorruptRecordError, read_records, write_records

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=4), Modality(name="audio", size=2)))


def video(frames: int = 3, labels: tuple[int, ...] = (1, 5), rgb: int = 4, audio_frames: int | None = None) -> Video:
    random = np.random.default_rng(0)
    return Video(
        id="abcd",
        frames={
            "rgb": random.integers(0, 256, (frames, rgb), np.uint8),
            "audio": random.integers(0, 256, (frames if audio_frames is None else audio_frames, 2), np.uint8),
        },
        labels=np.array(labels, np.int64),
    )


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field, written by hand."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def entry(key: str, value: bytes) -> bytes:
    """One map entry of field 1."""
    return field(1, field(1, key.encode()) + field(2, value))


def bytes_feature(*values: bytes) -> bytes:
    return field(1, b"".join(field(1, value) for value in values))


CONTEXT = entry("video_id", bytes_feature(b"xyz"))


def test_golden_reader(golden_dir: Path):
    with np.load(golden_dir / "reader.npz", allow_pickle=True) as vectors:
        cases = sorted({key.split("/")[0] for key in vectors})
        assert cases
        for case in cases:
            expected = {
                key: vectors[f"{case}/{key}"] for key in ("rgb", "audio", "labels", "label_list", "id", "matrix")
            }
            found = parse_example(vectors[f"{case}/serialized"].tobytes())
            assert found.id.encode() == expected["id"].item()
            assert list(found.frames) == ["rgb", "audio"]
            for name, frames in found.frames.items():
                np.testing.assert_array_equal(frames, expected[name], strict=True)
            np.testing.assert_array_equal(found.labels, np.unique(expected["label_list"]), strict=True)
            np.testing.assert_array_equal(found.labels, np.sort(expected["labels"]))
            # The original's matrix: dequantised, cut or zero-padded to a fixed number of frames.
            rows = min(found.num_frames, len(expected["matrix"]))
            floats = np.concatenate(list(found.frames.values()), axis=1)[:rows] * (4 / 255) + 4 / 512 - 2
            np.testing.assert_allclose(floats, expected["matrix"][:rows], atol=1e-6)
            assert not expected["matrix"][rows:].any()


def test_real_frame_level_records(data_dir: Path):
    shards = expand_shards([data_dir / "audioset" / "train" / "train00.tfrecord"])
    spec = infer_spec(shards)
    assert spec == FeatureSpec(modalities=(Modality(name="audio_embedding", size=128),))
    first = next(iter(read_examples(shards[0], spec, classes=527)))
    assert isinstance(first, Video)
    # Read off a hex dump of the file.
    assert first.id == "69tcopJWwrY"
    assert first.labels.tolist() == [0x89 & 127 | 1 << 7, 0xD2 & 127 | 3 << 7]
    assert first.frames["audio_embedding"].shape == (10, 128)
    assert first.frames["audio_embedding"][0, :4].tolist() == [0x89, 0x59, 0x4B, 0x91]
    assert id_key(next(read_records(shards[0]))) == "video_id"


def test_real_video_level_records(data_dir: Path):
    shards = expand_shards([data_dir / "yt8m-video-level" / "train" / "train00.tfrecord"])
    spec = infer_spec(shards)
    assert spec.level == "video"
    assert spec.slices() == {"mean_rgb": slice(0, 1024), "mean_audio": slice(1024, 1152)}
    first = next(iter(read_examples(shards[0], spec, classes=3862)))
    assert isinstance(first, Video)
    assert first.id == "c3dd"
    assert first.frames["mean_rgb"].shape == (1, 1024)
    assert first.frames["mean_rgb"][0, 0] == np.frombuffer(b"\xb9\x9d=>", "<f4")
    assert id_key(next(read_records(shards[0]))) == "id"


def arrays_of(dtype: str, shape: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    if dtype == "float32":
        return npst.arrays(dtype, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    # As one draw, which is several times as fast as one for each value.
    count = shape[0] * shape[1]
    return st.binary(min_size=count, max_size=count).map(lambda data: np.frombuffer(data, np.uint8).reshape(shape))


@st.composite
def videos(draw: st.DrawFn, dtype: str) -> Video:
    frames = draw(st.integers(1, 6)) if dtype == "uint8" else 1
    sizes = draw(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(2, 5), min_size=1, max_size=3))
    if dtype == "float32":
        sizes = {name: size for name, size in sizes.items() if name not in ("id", "video_id", "labels")} or {"a": 2}
    arrays = {name: draw(arrays_of(dtype, (frames, size))) for name, size in sizes.items()}
    labels = draw(st.sets(st.integers(0, 2**40), max_size=4))
    return Video(draw(st.text(max_size=5)), arrays, np.array(sorted(labels), np.int64))


@given(original=videos("uint8"))
def test_frame_level_round_trip(original: Video):
    assert_same(parse_example(to_sequence_example(original)), original)


@given(original=videos("float32"))
def test_video_level_round_trip(original: Video):
    assert_same(parse_example(to_example(original)), original)


def assert_same(found: Video, original: Video) -> None:
    assert found.id == original.id
    np.testing.assert_array_equal(found.labels, original.labels, strict=True)
    assert list(found.frames) == sorted(original.frames, key=lambda name: (-original.frames[name].shape[1], name))
    for name, frames in original.frames.items():
        np.testing.assert_array_equal(found.frames[name], frames, strict=True)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_video_or_a_data_error(data: bytes):
    try:
        assert parse_example(data).num_frames > 0
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_changed_byte_gives_a_video_or_a_data_error(position: int, value: int):
    data = bytearray(to_sequence_example(video()))
    data[position % len(data)] = value
    try:
        assert parse_example(bytes(data)).num_frames > 0
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_hand_written_record_with_a_list_that_holds_no_bytes():
    floats = field(2, field(1, np.array([1, 2], np.float32).tobytes()))
    record = field(1, CONTEXT) + field(
        2, entry("audio", field(1, bytes_feature(b"\1\2")) * 2) + entry("scores", field(1, floats) * 2)
    )
    found = parse_example(record)
    assert found.id == "xyz"
    assert found.labels.shape == (0,)
    assert {name: frames.tolist() for name, frames in found.frames.items()} == {"audio": [[1, 2], [1, 2]]}


def test_an_unpacked_list_of_labels_is_read():
    labels = field(3, b"\x08\x05\x08\x02")
    record = field(1, CONTEXT + entry("labels", labels)) + field(2, entry("a", field(1, bytes_feature(b"\1"))))
    assert parse_example(record).labels.tolist() == [2, 5]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (b"no protobuf at all", "no SequenceExample"),
        (b"", "neither feature lists"),
        (to_sequence_example(video(frames=0)), "zero frames"),
        (to_sequence_example(video(audio_frames=2)), "differ in frames ('audio': 2, 'rgb': 3)"),
        (field(2, entry("rgb", field(1, bytes_feature(b"\1")))), "neither of the context features 'id' and 'video_id'"),
        (
            field(1, CONTEXT)
            + field(2, entry("rgb", field(1, bytes_feature(b"\1\1")) + field(1, bytes_feature(b"\1")))),
            "frames of 1 and of 2 bytes",
        ),
        (
            field(1, CONTEXT) + field(2, entry("rgb", field(1, bytes_feature(b"\1", b"\1")))),
            "'rgb' must have one bytes value a frame",
        ),
        (
            field(1, CONTEXT + entry("mean_rgb", field(2, field(1, np.array([1, np.nan], np.float32).tobytes())))),
            "'mean_rgb' has values that are not finite",
        ),
    ],
)
def test_damaged_records_say_what_is_wrong(record: bytes, problem: str):
    with pytest.raises(CorruptRecordError) as caught:
        parse_example(record)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (to_sequence_example(video(rgb=5)), "'rgb' has 5 uint8 values a frame, expected 4 uint8"),
        (to_sequence_example(Video("a", {"sound": np.zeros((1, 2), np.uint8)}, np.array([0]))), "no feature 'rgb'"),
        (to_example(Video("a", {"rgb": np.zeros((1, 4), np.float32)}, np.array([0]))), "no feature 'audio'"),
        (to_sequence_example(video(labels=(2, 6))), "'labels' has 6, outside the vocabulary of 6 classes"),
        (to_sequence_example(video(labels=(-1, 2))), "'labels' has -1, outside the vocabulary of 6 classes"),
    ],
)
def test_a_misfit_names_file_record_and_field(tmp_path: Path, record: bytes, problem: str):
    path = tmp_path / "shard.tfrecord"
    write_records(path, [to_sequence_example(video()), record])
    reading = iter(read_examples(path, SPEC, classes=6))
    assert isinstance(next(reading), Video)
    with pytest.raises(DataError) as caught:
        next(reading)
    assert not isinstance(caught.value, CorruptRecordError)
    assert f"{path}, record 1: " in str(caught.value)
    assert problem in str(caught.value)


def test_a_spec_takes_its_modalities_in_its_order():
    audio_only = FeatureSpec(modalities=(Modality(name="audio", size=2),))
    assert list(parse_example(to_sequence_example(video()), audio_only).frames) == ["audio"]
    reversed_spec = FeatureSpec(modalities=SPEC.modalities[::-1])
    assert list(parse_example(to_sequence_example(video()), reversed_spec).frames) == ["audio", "rgb"]


def test_labels_are_not_checked_without_a_vocabulary():
    assert parse_example(to_sequence_example(video(labels=(10**6,))), SPEC).labels.tolist() == [10**6]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_written_shard_reads_back(tmp_path: Path, dtype: type):
    frames = np.arange(6, dtype=dtype).reshape(1, 6)
    written = [Video(name, {"a": frames, "b": frames[:, :2]}, np.array([3, 5])) for name in ("x", "ü")]
    write_shard(tmp_path / "s.tfrecord", iter(written))
    for video, read in zip(written, read_examples(tmp_path / "s.tfrecord"), strict=True):
        assert isinstance(read, Video)
        assert read.id == video.id
        assert read.labels.tolist() == [3, 5]
        for name, array in video.frames.items():
            np.testing.assert_array_equal(read.frames[name], array)
            assert read.frames[name].dtype == dtype
