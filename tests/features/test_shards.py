"""Files, folders and globs; and the division of records among workers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidfit.errors import DataError
from vidfit.features.shards import expand_shards, share_of


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
