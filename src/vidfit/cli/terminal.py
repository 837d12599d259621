"""What a person sees while vidfit works, on standard error: a bar on a terminal, log lines everywhere."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bars

from vidfit.progress import OnProgress, Pace, Progress


class _StandardError:
    """Standard error as long as it can be written: a closed terminal or pipe ends no training."""

    @property
    def _stream(self) -> TextIO | None:
        # While a bar is shown, rich has put something in its place that writes to this console.
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        with suppress(OSError):
            if self._stream:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            if self._stream:
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        if name == "rich_proxied_file":
            raise AttributeError(name)
        return getattr(self._stream, name)


# Names are the user's: brackets in them are not markup.
console = Console(file=cast(TextIO, _StandardError()), highlight=False, markup=False, soft_wrap=True)


class _Lines(logging.Handler):
    """Prints the library's log lines above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(record.getMessage())


def show_log() -> None:
    """Print what the library logs. Without a terminal also what the bar would show, validation by validation."""
    log = logging.getLogger("vidfit")
    log.handlers = [_Lines()]
    log.propagate = False
    log.setLevel(logging.INFO if console.is_terminal else logging.DEBUG)


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """Yields a callback that shows one bar: that of the stage which reported last."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[note]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        pace = Pace()

        def show(now: Progress) -> None:
            nonlocal pace
            if not bars.tasks or bars.tasks[0].description != now.stage:
                for task in bars.task_ids:
                    bars.remove_task(task)
                bars.add_task(now.stage, total=None, unit=now.unit, note="", left="")
                pace = Pace(now.done)
            note, left = now.note or pace.speed(now.done, now.unit), pace.left(now.done, now.total)
            bars.update(bars.tasks[0].id, completed=now.done, total=now.total, note=note, left=left)

        yield show
