"""How far long work has come. The library reports it to a callback; `cli/terminal.py` shows it."""

import logging
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


OnProgress = Callable[[Progress], None]
"""Called a few times a second, in the process that was called."""


def silent(progress: Progress) -> None:
    """Ignores progress: the default everywhere."""


def counter(on_progress: OnProgress, stage: str, unit: str) -> Callable[[int, int], None]:
    """What the parts of a stage call with (done, total)."""
    return partial(_count, on_progress, stage, unit)


def _count(on_progress: OnProgress, stage: str, unit: str, done: int, total: int) -> None:
    on_progress(Progress(stage, done, total, unit))


def log_skipped(stage: str, skipped: object) -> None:
    """Warn of what a stage left out, if anything: a `Skipped` (features/skipped.py)."""
    if skipped:
        log.warning("%s: %s", stage, skipped)
