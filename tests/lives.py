"""`vidfit` as a process that can be killed, many times over: a process that has imported everything forks each life.

Run by `Lives`: for each line on standard input, the arguments as JSON, it prints the child's process id and, once that
has ended, its exit code as `subprocess` has it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

Snapshot = dict[Path, tuple[int, int, int]]


class Lives:
    """Starts lives of the command line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def live(self, *arguments: object) -> int:
        """To the end; returns the exit code."""
        self._begin(arguments)
        return self._end()

    def kill(self, number: signal.Signals, folder: Path, random: Random, *arguments: object) -> int:
        """To a random moment after a random number of changes of files in a folder, if it comes to that."""
        process = self._begin(arguments)
        left, before = random.randint(1, 40), _snapshot(folder)
        while left and not _is_over(process):
            now = _snapshot(folder)
            left -= now != before
            before = now
            time.sleep(0.001)  # leaves the processor to the process
        time.sleep(random.random() * 0.005)
        os.kill(process, number)
        return self._end()

    def _begin(self, arguments: tuple[object, ...]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(list(map(str, arguments))), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def _end(self) -> int:
        assert self._process.stdin
        assert self._process.stdout
        print(file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def lives() -> Iterator[Lives]:
    """A `Lives`."""
    command, root = [sys.executable, "-m", "tests.lives"], Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Lives(process)
        process.kill()


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{process}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _is_over(process: int) -> bool:
    """Whether it waits for its exit code to be asked for."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _snapshot(folder: Path) -> Snapshot:
    found: Snapshot = {}
    for path in folder.rglob("*"):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        found[path] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def _serve() -> None:
    # All that a life would take long to import; an optimiser imports `torch._dynamo` at its first use.
    import torch._dynamo  # noqa: F401

    import vidfit.pipeline  # noqa: F401
    from vidfit.cli import main

    # A kill is no power cut: what is written stays, and to wait for the disk takes longer than all else.
    os.fsync = lambda fd: None

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            nowhere, errors = os.open(os.devnull, os.O_RDWR), os.dup(2)
            for stream in range(3):
                os.dup2(nowhere, stream)
            sys.argv = ["vidfit", *json.loads(line)]
            code = 0
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                # Told where the test shows it. Python's own end would abort: ONNX Runtime does not bear a fork.
                code = 1
                with os.fdopen(errors, "w") as stderr:
                    traceback.print_exc(file=stderr)
            os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
