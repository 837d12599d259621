"""A folder has one writer: others are refused, and a dead holder blocks nobody."""

import errno
import fcntl
import logging
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.corpus import write_recipe
from vidfit.cli import main
from vidfit.errors import OutputError
from vidfit.locks import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from vidfit.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds `tmp_path/run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(folder: Path) -> None:
    with locked(folder):
        pass


def test_a_held_folder_names_its_holder(tmp_path: Path, holder: subprocess.Popen):
    place = re.escape(f"{tmp_path / 'run'}: process {holder.pid} on {socket.gethostname()} is writing here; wait")
    for _ in range(2):
        with pytest.raises(OutputError, match=place):
            take(tmp_path / "run")


def test_a_killed_holder_blocks_nobody(tmp_path: Path, holder: subprocess.Popen):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    take(tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_lock_leaves_a_folder_as_it_was(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    take(tmp_path / "empty")
    take(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == ["empty"]
    with locked(tmp_path / "used"):
        (tmp_path / "used" / "file").touch()
    assert os.listdir(tmp_path / "used") == ["file"]


def test_threads_of_one_process_exclude_each_other(tmp_path: Path):
    found: list[BaseException] = []

    def other() -> None:
        try:
            take(tmp_path)
        except OutputError as error:
            found.append(error)

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on" in str(found[0])
    take(tmp_path)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    done = context.Event()
    with locked(tmp_path):
        child = context.Process(target=done.wait)
        child.start()
    take(tmp_path)
    assert child.is_alive()
    done.set()
    child.join()


def test_a_forked_child_does_not_free_the_lock(tmp_path: Path):
    try:
        with locked(tmp_path):
            if os.fork() == 0:
                raise SystemExit  # leaves through the end of the block
            os.wait()
            assert (tmp_path / LOCK).exists()
            with pytest.raises(OutputError):
                take(tmp_path)
    except SystemExit:
        os._exit(0)


def test_a_lock_file_that_was_removed_protects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between our opening and locking it, its last holder ends and removes it."""
    flock, calls = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()}")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
):
    def no_locks(file: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING):
        take(tmp_path / "run")
    assert "this file system has no locks" in caplog.text


def test_where_there_is_no_fcntl_it_is_imported_and_used(tmp_path: Path):
    code = (
        "import sys, pathlib; sys.modules['fcntl'] = None; from vidfit.locks import locked\n"
        f"with locked(pathlib.Path({str(tmp_path / 'run')!r})): print('held')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "held\n"


def test_a_file_cannot_be_locked_as_a_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is a file, not a folder"):
        take(tmp_path / "file")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["vidfit", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.mark.parametrize("command", ["run", "train", "pack", "frontier"])
def test_a_run_folder_in_use_is_refused(
    finished: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, capfd
):
    """Nothing in it changes."""
    arguments = {
        "run": ("run", write_recipe(tmp_path, corpus), "-o", finished),
        "train": ("train", write_recipe(tmp_path, corpus), "-o", finished),
        "pack": ("pack", finished, "--budget", "1GB", "--overwrite"),
        "frontier": ("frontier", finished),
    }[command]
    with locked(finished):
        before = snapshot(finished)
        assert call(monkeypatch, *arguments) == 2
        assert snapshot(finished) == before
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"vidfit: {finished}: process {os.getpid()} on {socket.gethostname()} is writing here; "
        "wait until it ends, or choose another output"
    )


def test_reading_a_run_folder_in_use_is_allowed(
    finished: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with locked(finished):
        model = finished / "model.onnx"
        assert call(monkeypatch, "evaluate", model, corpus / "eval") == 0
        assert call(monkeypatch, "predict", model, corpus / "eval", "-o", tmp_path / "out.csv") == 0
        assert call(monkeypatch, "report", finished) == 0


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
