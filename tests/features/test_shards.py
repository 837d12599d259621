"""Files, folders and globs; and the division of records among workers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features.test_example import SPEC, video
from vidfit.errors import DataError
from vidfit.features.example import to_sequence_example
from vidfit.features.shards import estimate_records, expand_shards, infer_spec, share_of
from vidfit.features.spec import Video
from vidfit.features.tfrecord import CorruptRecordError, write_records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("b.tfrecord", "a.tfrecord", "notes.txt", "deep/c.tfrecord"):
        (tmp_path / name).touch()
    return tmp_path


def test_folders_files_and_globs_give_each_file_once_and_sorted(folder: Path):
    patterns = [folder / "b.tfrecord", str(folder / "*.tfrecord"), folder, f"{folder}/**/c.*"]
    assert expand_shards(patterns) == [folder / "a.tfrecord", folder / "b.tfrecord", folder / "deep" / "c.tfrecord"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(folder: Path):
    (folder / "a[1].tfrecord").touch()
    assert expand_shards([folder / "a[1].tfrecord"]) == [folder / "a[1].tfrecord"]


def test_a_pattern_without_a_match_is_named(folder: Path):
    with pytest.raises(DataError, match=r"missing\*\.tfrecord.*no file matches"):
        expand_shards([folder / "a.tfrecord", folder / "missing*.tfrecord"])


def test_a_folder_without_shards_is_named(folder: Path):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty.*no \*\.tfrecord"):
        expand_shards([folder / "empty"])


def test_no_patterns_at_all():
    with pytest.raises(DataError, match="list is empty"):
        expand_shards([])


def test_hidden_files_in_a_folder_are_no_shards(folder: Path):
    """macOS leaves a `._x` beside a file `x` on foreign disks and in archives."""
    (folder / "._a.tfrecord").write_bytes(b"no record")
    (folder / "deep" / ".c.tfrecord").touch()
    for pattern in (folder, folder / "*.tfrecord", folder / "**" / "*.tfrecord"):
        assert not any(shard.name.startswith(".") for shard in expand_shards([pattern]))
    assert expand_shards([folder / "._a.tfrecord"]) == [folder / "._a.tfrecord"]  # who names it, means it


@pytest.mark.parametrize("how", ["folder", "file", "hard link", "path"])
def test_a_shard_reached_twice_counts_once_and_is_told(folder: Path, how: str):
    shards = [folder / "a.tfrecord", folder / "b.tfrecord"]
    patterns = [folder / "*.tfrecord", folder / "more" / "**" / "*.tfrecord"]
    (folder / "more").mkdir()
    if how == "folder":
        (folder / "more" / "link").symlink_to(folder / "deep")
        patterns[0], shards = folder / "deep" / "*.tfrecord", [folder / "deep" / "c.tfrecord"]
    elif how == "file":
        (folder / "more" / "x.tfrecord").symlink_to(folder / "a.tfrecord")
    elif how == "hard link":
        (folder / "more" / "x.tfrecord").hardlink_to(folder / "a.tfrecord")
    else:
        patterns[1] = folder / "more" / ".." / "a.tfrecord"
    for shard in (folder / "a.tfrecord", folder / "b.tfrecord", folder / "deep" / "c.tfrecord"):
        shard.write_bytes(b"something")
    lines: list[str] = []
    assert expand_shards(patterns, lines.append) == shards
    (line,) = lines
    assert "1 are reached twice" in line
    assert str(shards[0]) in line


def test_an_empty_shard_is_told(folder: Path):
    (folder / "a.tfrecord").write_bytes(b"something")
    lines: list[str] = []
    assert len(expand_shards([folder], lines.append)) == 2
    assert lines == [f"shards: 1 of 2 are empty files, such as {folder / 'b.tfrecord'}; was it copied whole?"]


@given(shards=st.integers(1, 20), workers=st.integers(1, 50), records=st.integers(0, 12))
def test_any_number_of_workers_reads_every_record_exactly_once(shards: int, workers: int, records: int):
    paths = [Path(str(index)) for index in range(shards)]
    read = [
        (path, number)
        for worker in range(workers)
        for path, part, parts in share_of(paths, worker, workers)
        for number in range(part, records, parts)
    ]
    assert sorted(read) == sorted((path, number) for path in paths for number in range(records))


def test_infer_spec_passes_over_empty_files_and_on_request_damaged_records(tmp_path: Path):
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    write_records(empty, [])
    write_records(damaged, [b"no protobuf", to_sequence_example(video())])
    assert infer_spec([empty, damaged], skip_corrupt=True) == SPEC
    with pytest.raises(CorruptRecordError, match="damaged, record 0"):
        infer_spec([empty, damaged])
    with pytest.raises(DataError, match="no record that can be read"):
        infer_spec([empty])


@pytest.mark.parametrize(("name", "size"), [("num_frames", 2), ("probabilities", 2), ("", 2), ("rgb", 0)])
def test_infer_spec_names_the_feature_that_can_be_no_modality(name: str, size: int, tmp_path: Path):
    path = tmp_path / "some.tfrecord"
    frames = {name: np.zeros((3, size), np.uint8), "audio": np.zeros((3, 1), np.uint8)}
    write_records(path, [to_sequence_example(Video("a", frames, np.array([0])))])
    with pytest.raises(
        DataError, match=rf"some\.tfrecord: feature '{name}' can be no modality \((name|size): "
    ) as caught:
        infer_spec([path])
    assert "\n" not in str(caught.value)


def test_the_records_of_several_files_are_estimated_by_the_largest(tmp_path: Path):
    for name, count in (("empty", 0), ("small", 10), ("large", 20)):
        write_records(tmp_path / name, [bytes(84)] * count)
    assert estimate_records([tmp_path / "empty", tmp_path / "small", tmp_path / "large"]) == 30


@pytest.mark.parametrize("folder", ["run[1]", "[2024] clips"])
def test_folders_that_exist_are_no_patterns(tmp_path: Path, folder: str):
    for name in (folder, "run1", "2 clips"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a[0].tfrecord").write_bytes(b"")
    for pattern in (f"{folder}/*.tfrecord", f"{folder}/**", folder, f"{folder}/a[0].tfrecord"):
        assert expand_shards([tmp_path / pattern]) == [tmp_path / folder / "a[0].tfrecord"]
    assert len(expand_shards([tmp_path / "*" / "*.tfrecord"])) == 3


def test_a_quoted_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.tfrecord").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_shards(["~/*.tfrecord"]) == [tmp_path / "a.tfrecord"]
