"""Files appear whole or not at all."""

import errno
import os

import pytest

from vidfit.errors import OutputError
from vidfit.files import replacing, replacing_folder


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_an_interrupted_file_leaves_nothing(tmp_path, failure):
    def write():
        with replacing(tmp_path / "a.csv") as partial:
            partial.write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_an_error_naming_the_file(tmp_path):
    def write():
        with replacing(tmp_path / "a.csv") as partial:
            partial.write_text("half")
            # A device without any room, so that the error is the system's own.
            with open("/dev/full", "w") as full:
                full.write("rest")

    with pytest.raises(OutputError, match=r"a\.csv: cannot be written \(No space left on device\)"):
        write()
    assert not os.listdir(tmp_path)


def test_an_input_that_is_missing_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.csv"):
        (tmp_path / "input").read_bytes()
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "input")


def test_the_partial_file_itself_cannot_be_opened(tmp_path):
    (tmp_path / ".a.csv.partial").mkdir()
    with pytest.raises(OutputError, match=r"a\.csv: cannot be written"), replacing(tmp_path / "a.csv") as partial:
        partial.write_text("")


@pytest.mark.parametrize("path", ["folder", "/dev/null", "missing/a.csv"])
def test_a_place_that_cannot_hold_a_file_is_refused_at_once(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"regular file|no folder"), replacing(tmp_path / path):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == ["folder"]


def test_the_old_folder_stands_until_the_new_one_is_whole(tmp_path):
    path, left = tmp_path / "saved", tmp_path / ".saved.partial"
    path.mkdir()
    (path / "mark").write_text("old")
    left.mkdir()
    (left / "leftover").touch()
    with replacing_folder(path, "mark") as partial:
        assert os.listdir(partial) == []
        (partial / "mark").write_text("new")
        assert (path / "mark").read_text() == "old"
    assert (path / "mark").read_text() == "new"
    assert os.listdir(tmp_path) == ["saved"]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def write():
        with replacing_folder(tmp_path / "saved", "mark") as partial:
            (partial / "mark").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_such_folder_is_not_replaced(tmp_path, kind: str):
    path = tmp_path / "saved"
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with (
        pytest.raises(OutputError, match="saved: holds no mark, so it is not replaced"),
        replacing_folder(path, "mark"),
    ):
        pass
    assert os.listdir(tmp_path) == ["saved"]


def test_a_folder_in_no_folder(tmp_path):
    path = tmp_path / "none" / "saved"
    with pytest.raises(OutputError, match=r"saved: cannot be written"), replacing_folder(path, "mark"):
        pass
