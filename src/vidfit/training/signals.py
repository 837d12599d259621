"""Ctrl-C, SIGTERM and SIGHUP never interrupt half a step.

Schedulers send SIGTERM before they take a machine away; a terminal that is closed sends SIGHUP.

What changes a training's state is done within `held`; a signal that comes meanwhile is obeyed at its end. Any other
moment (reading, validating) it interrupts at once, and what there is can be saved. Ranks stop together: where there are
several, a signal to any of them waits for the end of the next `held`, which all of them enter.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from vidfit import distributed

STOPS = (KeyboardInterrupt, SystemExit)
"""What a signal becomes: SIGINT the first, the others the second with the shell's exit code: 143 for SIGTERM."""


def leave(number: int) -> NoReturn:
    """What obeying one of these signals is."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


class Stopping:
    """A context in which the signals wait for the end of `held`. Outside the main thread it changes nothing."""

    def __init__(self) -> None:
        self._holding = False
        self._asked = 0

    def __enter__(self) -> "Stopping":
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What is to be ignored, as in a shell's background jobs or under nohup, still is.
            if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals that come within are obeyed at the end, by all ranks."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if asked := max(number for (number,) in distributed.all_gather(self._asked)):
            leave(asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Always remembered, because Python drops what a handler raises within a destructor. Obeyed only once, because
        # launchers repeat the signal while the last checkpoint is being written.
        first, self._asked = not self._asked, number
        if first and not self._holding and distributed.world_size() == 1:
            leave(number)
