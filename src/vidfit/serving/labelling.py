"""Processes that label videos, one video at a time each.

A video that crashes the decoder takes its process with it, and a process may be killed. Its video is tried once more in
a new process, so nothing is lost. A video that ends two processes is refused.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from vidfit.errors import DataError, ModelFileError
from vidfit.export.metadata import read_info
from vidfit.inference.label import Labeller
from vidfit.inference.label_files import to_object
from vidfit.processes import end_with_parent
from vidfit.videos.sources import Source

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 2


class Labellers:
    """Some processes, each with all models.

    Arguments:
        models: packed files by name, and the checksum that each must have.
        processes: how many.
        longest: seconds of the longest video.
        timeout: seconds that one video may take.
    """

    def __init__(self, models: Mapping[str, tuple[Path, str]], processes: int, longest: float, timeout: float) -> None:
        self._workers = [_Worker(models, longest, timeout) for _ in range(processes)]
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self.replaced = 0
        """Processes that died and were replaced."""

    async def start(self) -> None:
        """Start the processes.

        Raises:
            ModelFileError, DataError: a model cannot be opened, or a backbone's file is missing.
        """
        await asyncio.gather(*(worker.start() for worker in self._workers))
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def label(self, model: str, video: Path) -> dict[str, Any]:
        """The labels of a video, as in the .json file of `vidfit label`, without its path.

        Raises:
            DataError: it cannot be read, is too long, takes too long or crashes the decoder.
            ModelFileError: the model's file has changed since the server started.
        """
        worker = await self._idle.get()
        try:
            for _ in range(_ATTEMPTS):
                with suppress(BrokenProcessPool):
                    return await worker.label(model, video)
                self.replaced += 1
                log.warning("a process that labels videos was killed or crashed; another takes its place")
            raise DataError("video: crashes the decoder; convert it to another format")
        finally:
            self._idle.put_nowait(worker)

    def stop(self) -> None:
        """End the processes, whatever they do."""
        for worker in self._workers:
            worker.kill()


class _Worker:
    """A process. One that died is started again with the next video."""

    def __init__(self, models: Mapping[str, tuple[Path, str]], longest: float, timeout: float) -> None:
        self._models, self._longest, self._timeout = models, longest, timeout
        self._pool: ProcessPoolExecutor | None = None
        self._process = 0

    async def start(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self._process = await asyncio.wrap_future(pool.submit(_open, self._models, self._longest))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        self._pool = pool
        return pool

    async def label(self, model: str, video: Path) -> dict[str, Any]:
        pool = self._pool or await self.start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(pool.submit(_label, model, video)), self._timeout)
        except TimeoutError:
            self.kill()
            raise DataError(f"video: takes longer than {self._timeout:g} s to label; send a shorter one") from None
        except BrokenProcessPool:
            self.kill()
            raise

    def kill(self) -> None:
        if self._pool:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


# In the process.

_labellers: dict[str, Labeller] = {}


def _open(models: Mapping[str, tuple[Path, str]], longest: float) -> int:
    """Load the models; gives the process's id."""
    # The server decides when its processes end, also where a signal goes to all of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.getLogger("vidfit").setLevel(logging.ERROR)  # the server has told it
    end_with_parent()
    for name, (path, checksum) in models.items():
        if read_info(path).crc32c != checksum:
            raise ModelFileError(f"{path}: has changed since the server started; start the server again")
        _labellers[name] = Labeller(path, longest=longest)
    return os.getpid()


def _label(model: str, video: Path) -> dict[str, Any]:
    labelled = _labellers[model].label(Source("video", video))
    if labelled.error:
        raise DataError("video: " + labelled.error.removeprefix(f"{video}: "))
    found = to_object(labelled)
    del found["path"]
    return found
