"""How far long work has come. The library reports it to a callback; `cli/terminal.py` shows it."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a stage of the work stands."""

    stage: str
    """What is being done, in a few words: `training netvlad`."""
    done: int
    total: int | None
    """None where it is not known; for videos it is an estimate."""
    unit: str
    """What is counted: `steps`, `videos`, `shards`, ..."""
    note: str = ""
    """Figures of the moment, such as the loss."""


# Steps that are timed before an estimate is shown: the first ones say little.
_TIMED_STEPS = 3


class Pace:
    """How fast a stage goes, and how long it may still take: the mean since it began.

    Arguments:
        done: what had been done when it began.
        clock: seconds.
    """

    def __init__(self, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._first, self._clock, self._start = done, clock, clock()

    def speed(self, done: int, unit: str) -> str:
        """`0.25 videos/s`; empty before a few steps are done."""
        rate = self._rate(done)
        if not rate:
            return ""
        return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.{1 if rate >= 1 else 2}f} {unit}/s"

    def left(self, done: int, total: int | None) -> str:
        """`1 h 41 min left`; empty before a few steps are done, and where the end is not known or reached."""
        rate = self._rate(done)
        return f"{format_seconds((total - done) / rate)} left" if rate and total and total > done else ""

    def _rate(self, done: int) -> float:
        steps, seconds = done - self._first, self._clock() - self._start
        return steps / seconds if steps >= _TIMED_STEPS and seconds > 0 else 0.0


def format_seconds(seconds: float) -> str:
    """A time for people: `40 s`, `3 min 20 s`, `1 h 41 min`."""
    whole = round(seconds)
    for size, name, smaller, part in ((3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name} {rest} {part}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


OnProgress = Callable[[Progress], None]
"""Called a few times a second, in the process that was called."""


def silent(progress: Progress) -> None:
    """Ignores progress: the default everywhere."""


def begin(on_progress: OnProgress, stage: str, total: int, unit: str) -> None:
    """Say that a stage begins which may be silent for long; a log line says it where no bar is shown."""
    log.debug("%s", stage)
    on_progress(Progress(stage, 0, total or None, unit))


OnCount = Callable[[int, int], None]
"""Called by the parts of a stage with (done, total); the total may be an estimate."""


def uncounted(done: int, total: int) -> None:
    """Ignores counts: the default everywhere."""


def counter(on_progress: OnProgress, stage: str, unit: str) -> OnCount:
    """What reports the counts of a stage as its progress."""
    return partial(_count, on_progress, stage, unit)


def _count(on_progress: OnProgress, stage: str, unit: str, done: int, total: int) -> None:
    on_progress(Progress(stage, done, total, unit))


def log_skipped(stage: str, skipped: object) -> None:
    """Warn of what a stage left out, if anything: a `Skipped` (features/skipped.py)."""
    if skipped:
        log.warning("%s: %s", stage, skipped)
