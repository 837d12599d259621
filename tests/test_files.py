"""Files appear whole or not at all."""

import errno
import os

import pytest

from vidfit.errors import OutputError
from vidfit.files import replacing


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
