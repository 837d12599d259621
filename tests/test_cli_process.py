"""The command as a process of its own: what Python does at its start and its end."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus import write_recipe


def test_what_needs_no_pytorch_does_not_wait_for_it():
    """Importing it takes five times as long as everything else that `vidfit --help` needs."""
    code = "import sys, vidfit.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def command(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, for what Python does at its start and its end."""
    line = [sys.executable, "-m", "vidfit", *map(str, arguments)]
    return subprocess.run(line, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_cannot_be_printed_is_escaped(corpus: Path, tmp_path: Path, encoding: str):
    """Letters that the encoding lacks, and bytes of a name that are no letters."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    output, told = tmp_path / "日本 caf\udce9", rb"\u65e5\u672c caf\udce9"
    made = command("cache", corpus / "eval", "-o", output, env=environment)
    assert (made.returncode, made.stderr) == (0, b"")
    assert made.stdout.startswith(bytes(tmp_path) + b"/" + told + b": 2 of 2 shards cached now")
    missing = command("inspect", output / "none", env=environment)
    assert (missing.returncode, missing.stderr.count(b"\n")) == (2, 1)
    assert told in missing.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json")])
def test_output_that_cannot_be_written_is_one_line(corpus: Path, arguments: tuple[str, ...], unbuffered: str):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        told = command(*arguments, corpus / "eval", stdout=full, env=environment)
    assert (told.returncode, told.stderr) == (1, b"vidfit: standard output: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(corpus: Path, unbuffered: str):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    told = command("inspect", corpus / "eval", stdout=write, env=environment)
    os.close(write)
    assert (told.returncode, told.stderr) == (1, b"")


def test_a_closed_terminal_leaves_a_checkpoint(corpus: Path, tmp_path: Path):
    recipe = write_recipe(tmp_path, corpus)
    long = ("--member", "mean", "--set", "training.steps=1000000", "--set", "training.validate_every=20")
    line = [sys.executable, "-m", "vidfit", "train", recipe, "-o", tmp_path / "run", *long]
    terminal, other = pty.openpty()
    with subprocess.Popen(line, stdin=other, stdout=other, stderr=other, start_new_session=True) as process:
        os.close(other)
        while not (log := tmp_path / "run" / "members" / "mean" / "log.jsonl").exists():
            os.read(terminal, 1024)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert log.exists()
    assert (log.parent / "between.safetensors").exists() or (log.parent / "last.safetensors").exists()
