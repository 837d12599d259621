"""Rated segments in records, shards and caches; fields that do not fit together."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vidfit
from tests.features.test_example import CONTEXT, bytes_feature, entry, field, varint
from vidfit.errors import DataError
from vidfit.features.batch import collate
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import parse_example, read_examples, to_example, to_sequence_example
from vidfit.features.inspect import inspect_shards
from vidfit.features.segments import KEYS, NO_SEGMENTS, RatedSegments
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.spec import Video
from vidfit.features.survey import survey_shards
from vidfit.features.tfrecord import CorruptRecordError, write_records

Rows = list[tuple[int, int, int, float]]
ROWS: Rows = [(0, 5, 3, 1.0), (10, 15, 3, 0.0), (10, 15, 7, 1.0)]


def rated(rows: Rows) -> RatedSegments:
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    return RatedSegments(
        *(np.array(column, dtype) for column, dtype in zip(columns, ["i8", "i8", "i8", "f4"], strict=True))
    )


def video(rows: Rows, id: str = "ab", frames: np.ndarray | None = None) -> Video:
    return Video(id, {"rgb": np.zeros((20, 3), np.uint8) if frames is None else frames}, np.array([1]), rated(rows))


def rows_of(video: Video | CorruptRecordError) -> Rows:
    assert isinstance(video, Video)
    own = video.segments
    return list(zip(own.starts.tolist(), own.ends.tolist(), own.labels.tolist(), own.scores.tolist(), strict=True))


def integers(*values: int) -> bytes:
    return field(3, field(1, b"".join(map(varint, values))))


def floats(*values: float) -> bytes:
    return field(2, field(1, np.array(values, "<f4").tobytes()))


def record(*features: bytes) -> bytes:
    """A record written by hand, with the four fields or some of them."""
    own = b"".join(entry(key, feature) for key, feature in zip(KEYS, features, strict=False) if feature)
    return field(1, CONTEXT + own) + field(2, entry("a", field(1, bytes_feature(b"\1\2"))))


SOUND = (integers(0, 5), integers(5, 10), integers(2, 2), floats(1, 0))


def test_a_record_of_another_writer_is_read():
    found = parse_example(record(*SOUND))
    assert rows_of(found) == [(0, 5, 2, 1), (5, 10, 2, 0)]
    assert [column.dtype.str for column in vars(found.segments).values()] == ["<i8", "<i8", "<i8", "<f4"]


def test_a_record_without_segments_or_with_empty_ones_has_none():
    assert parse_example(record()).segments is NO_SEGMENTS
    assert parse_example(record(integers(), integers(), integers(), floats())).segments is NO_SEGMENTS


rows = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.floats(0, 1, width=32)), max_size=5).map(
    lambda found: [(start, start + 1 + start % 60, label, score) for start, label, score in found]
)


@given(given_rows=rows)
def test_segments_round_trip(given_rows: Rows):
    assert rows_of(parse_example(to_sequence_example(video(given_rows)))) == given_rows
    means = video(given_rows, frames=np.ones((1, 3), np.float32))
    found = parse_example(to_example(means))
    assert rows_of(found) == given_rows
    assert list(found.frames) == ["rgb"]


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        ((*SOUND[:3], floats(1)), "differ in length ('segment_start_times': 2, .*, 'segment_scores': 1)"),
        ((*SOUND[:3], b""), "differ in length"),
        ((b"", *SOUND[1:]), "'segment_start_times': 0"),
        (
            (integers(0, 10), *SOUND[1:]),
            "at 10 s ('segment_start_times') and ends at 10 s ('segment_end_times')",
        ),
        (
            (integers(5, 5), integers(10, 12), *SOUND[2:]),
            "two segments start at 5 s, and one ends at 10 s, the other at 12 s ('segment_end_times')",
        ),
        ((*SOUND[:3], integers(1, 0)), "'segment_scores' is no list of floats"),
        ((floats(0, 5), *SOUND[1:]), "'segment_start_times' is no list of int64"),
        ((*SOUND[:3], floats(1, 1.5)), "'segment_scores' has values that are not from 0 to 1"),
        ((*SOUND[:3], floats(1, np.nan)), "'segment_scores' has values that are not from 0 to 1"),
        ((*SOUND[:2], integers(1, 2**64 - 1), SOUND[3]), "'segment_labels' has -1"),
    ],
)
def test_a_misfit_names_file_record_video_and_field(tmp_path: Path, features: tuple[bytes, ...], problem: str):
    path = tmp_path / "some.tfrecord"
    write_records(path, [record(*SOUND), record(*features)])
    found = list(read_examples(path))
    assert isinstance(found[0], Video)
    assert isinstance(found[1], CorruptRecordError)
    assert str(found[1]).startswith(f"{path}, record 1: video 'xyz': ")
    assert all(part in str(found[1]) for part in problem.split(".*"))
    assert survey_shards([path])[path].corrupt == 1


@pytest.mark.parametrize("kind", ["shard", "cache"])
def test_a_rated_label_outside_the_vocabulary_is_named(tmp_path: Path, kind: str):
    shards = written(tmp_path, kind)
    assert isinstance(next(iter(read_videos(shards[0], classes=8))), Video)
    with pytest.raises(DataError, match=r"record 0: video 'ab': 'segment_labels' has 7, outside the vocabulary of 7"):
        list(read_videos(shards[0], classes=7))
    assert survey_shards(shards)[shards[0]].highest == 7


def written(folder: Path, kind: str) -> list[Path]:
    vidfit.write_shard(folder / "some.tfrecord", [video(ROWS), video([], "c"), video(ROWS[1:], "d")])
    shards = [folder / "some.tfrecord"]
    if kind == "shard":
        return shards
    write_cache(shards, folder / "cache", "id", infer_spec(shards))
    return expand_shards([folder / "cache"])


@pytest.mark.parametrize("kind", ["shard", "cache"])
def test_shards_and_caches_keep_segments(tmp_path: Path, kind: str):
    shards = written(tmp_path, kind)
    assert [rows_of(one) for one in read_videos(shards[0])] == [ROWS, [], ROWS[1:]]
    assert inspect_shards(shards)["segments"] == {"rated": 5, "positive": 3, "videos": 2, "labels": 2}


def test_a_changed_rating_in_a_cache_is_damage(tmp_path: Path):
    (path,) = written(tmp_path, "cache")
    data = path.read_bytes()
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    assert table["segments"][0].as_py()[1] == {"start": 10, "end": 15, "label": 3, "score": 0}
    ends = np.array([5, 15, 15], "<i8").tobytes()
    assert data.count(ends) == 1
    path.write_bytes(data.replace(ends, np.array([5, 15, 16], "<i8").tobytes()))
    assert isinstance(next(iter(read_videos(path))), CorruptRecordError)


def test_batches_keep_the_segments_of_their_videos():
    batch = collate([video(ROWS), video([], "c"), video(ROWS[1:], "d")])
    assert [len(own) for own in batch.segments] == [3, 0, 2]
    assert [len(own) for own in batch.rows(torch.tensor([2, 0])).segments] == [2, 3]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"ends": [5, 15]}, "differ in length"),
        ({"starts": [5, 10, 10]}, "starts at 5 s"),
        ({"starts": [0.5, 10, 10]}, r"segments' starts are float64 \[3\]; give a list of whole numbers"),
        ({"labels": [[3], [3], [7]]}, r"segments' labels are int64 \[3, 1\]"),
        ({"labels": [3, -3, 7]}, "'segment_labels' has -3"),
        ({"scores": [1, 0, 2]}, "'segment_scores' has values"),
    ],
)
def test_segments_that_no_shard_holds_are_refused(tmp_path: Path, changed: dict[str, Any], problem: str):
    given_video = video(ROWS)
    given_video.segments = RatedSegments(**{**vars(given_video.segments), **changed})
    with pytest.raises(DataError, match=f"^video 'ab': .*{problem}"):
        vidfit.write_shard(tmp_path / "some.tfrecord", [given_video])
    assert not list(tmp_path.iterdir())


def test_lists_are_written_as_they_are_meant(tmp_path: Path):
    given_video = video([])
    given_video.segments = RatedSegments([0, 5], [5, 10], [1, 1], [1, 0])  # type: ignore[arg-type]
    vidfit.write_shard(tmp_path / "some.tfrecord", [given_video])
    assert rows_of(next(iter(read_videos(tmp_path / "some.tfrecord")))) == [(0, 5, 1, 1), (5, 10, 1, 0)]
