"""Files appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    replace, calls = os.replace, []
    monkeypatch.setattr("os.fsync", lambda file: calls.append("fsync"))
    monkeypatch.setattr("os.replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    with replacing(tmp_path / "model.onnx") as partial:
        partial.write_text("new")
    assert calls == ["fsync", "replace"]


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


def test_an_input_that_is_missing_is_not_blamed_on_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing_folder(tmp_path / "saved"):
        (tmp_path / "input").read_bytes()
    assert caught.value.filename == str(tmp_path / "input")


@pytest.mark.parametrize("what", [replacing, replacing_folder])
def test_a_copy_onto_a_full_disk_is_blamed_on_the_output(tmp_path, what):
    def write():
        with what(tmp_path / "out") as partial:
            target = partial / "a" if what is replacing_folder else partial
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tmp_path / "input", None, target)  # as shutil's

    with pytest.raises(OutputError, match=r"out: cannot be written \(No space left on device\); free some space"):
        write()


@pytest.mark.parametrize("what", [replacing, replacing_folder])
def test_a_place_that_takes_no_files_is_told_before_the_work(tmp_path, monkeypatch, what):
    def fail(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(OutputError, match=r"out: cannot be written .*may write"), what(tmp_path / "out"):
        pytest.fail("the work was begun")


def test_the_partial_file_itself_cannot_be_opened(tmp_path):
    def write():
        with replacing(tmp_path / "a.csv") as partial:
            partial.mkdir()
            partial.write_text("")

    with pytest.raises(OutputError, match=r"a\.csv: cannot be written"):
        write()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some of your quota"),
        (errno.ENOENT, "was removed meanwhile; call again"),
        (errno.EACCES, "choose a place where you may write"),
        (errno.EROFS, "choose a place where you may write"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.ELOOP, "choose another place"),
    ],
)
@pytest.mark.parametrize("what", [replacing, lambda path: replacing_folder(path, "mark")])
def test_the_advice_follows_from_the_failure(tmp_path, what, number, advice):
    with pytest.raises(OutputError) as caught, what(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'out'}: cannot be written ({os.strerror(number)}); ")
    assert advice in message
    assert ("space" in message) == (number == errno.ENOSPC)


def test_a_temporary_file_that_is_gone_is_not_a_full_disk(tmp_path):
    def write():
        with replacing(tmp_path / "a.csv") as partial:
            partial.write_text("half")
            partial.unlink()

    with pytest.raises(OutputError, match="removed meanwhile") as caught:
        write()
    assert "space" not in str(caught.value)


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.csv"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # which ends last
    assert os.listdir(tmp_path) == ["a.csv"]


KILLED = """
import os, signal, sys
from pathlib import Path
from vidfit.files import replacing, replacing_folder
place = Path(sys.argv[1])
with replacing(place / "a") as file, replacing_folder(place / "b", "mark") as folder:
    file.touch()
    (folder / "mark").touch()
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("there", flush=True)
    sys.stdin.read()
"""


def start(folder: Path, what: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_what_killed_writers_left_does_not_pile_up(tmp_path):
    with start(tmp_path, "wait") as living:
        assert living.stdout
        assert living.stdout.readline() == "there\n"
        kept = set(os.listdir(tmp_path))
        for _ in range(2):
            with start(tmp_path, "kill") as killed:
                pass
            assert killed.returncode == -signal.SIGKILL
            assert len(os.listdir(tmp_path)) == 4  # each removes what the one before it left
        with replacing(tmp_path / "c") as partial:
            partial.touch()
        assert set(os.listdir(tmp_path)) == kept | {"c"}
        living.communicate("")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_leftovers_of_other_machines_go_after_a_day(tmp_path):
    """Whether their processes live cannot be seen from here."""
    fresh, old = (tmp_path / f".vidfit-00000000-1-{number}.partial" for number in range(2))
    odd = tmp_path / ".vidfit-some-thing-else.partial"
    for path in (fresh, old, odd):
        path.touch()
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    with replacing(tmp_path / "a") as partial:
        partial.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"a", fresh.name, odd.name}


@pytest.mark.parametrize("path", ["folder", "/dev/null", "missing/a.csv"])
def test_a_place_that_cannot_hold_a_file_is_refused_at_once(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"regular file|no folder"), replacing(tmp_path / path):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == ["folder"]


def test_the_old_folder_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "saved"
    path.mkdir()
    (path / "mark").write_text("old")
    with replacing_folder(path, "mark") as partial:
        assert os.listdir(partial) == []
        (partial / "mark").write_text("new")
        assert (path / "mark").read_text() == "old"
    assert (path / "mark").read_text() == "new"
    assert os.listdir(tmp_path) == ["saved"]


def test_a_stop_while_the_old_folder_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "saved"
    path.mkdir()
    (path / "mark").write_text("old")

    def remove(folder, **_):
        (Path(folder) / "mark").unlink()
        raise KeyboardInterrupt

    def write():
        with replacing_folder(path, "mark") as partial:
            (partial / "mark").write_text("new")
            monkeypatch.setattr("vidfit.files.shutil.rmtree", remove)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (path / "mark").read_text() == "new"


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


def test_a_folder_gets_the_folders_above_it(tmp_path):
    saved = tmp_path / "new" / "saved"
    with replacing_folder(saved, "mark") as partial:
        (partial / "mark").touch()
    assert (saved / "mark").is_file()
    with pytest.raises(OutputError, match="is a file, not a folder"), replacing_folder(saved / "mark" / "x", "mark"):
        pass
