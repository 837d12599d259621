"""What a person sees while vidfit works: bars on a terminal, lines where there is none. All of it on standard error."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from vidfit.features.batch import Batch
from vidfit.features.skipped import Skipped
from vidfit.training.trainer import Progress as Training

# Names are the user's: brackets in them are no markup.
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def training_bar(name: str) -> Iterator[Callable[[Training], None]]:
    """A bar for the training of one member; yields what `training.loop.train` calls with its progress."""
    columns = (
        TextColumn("{task.description:<14}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    said: float | None = None
    skipped = Skipped()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, status="reading")

        def show(now: Training) -> None:
            nonlocal said, skipped
            skipped = now.skipped
            gap = "" if now.gap is None else f"  GAP {now.gap:.4f}"
            status = f"loss {now.loss:.3f}{gap}  {now.videos_per_second:,.0f} videos/s"
            of = f"/{now.steps}" if now.steps else ""
            bar.update(task, completed=now.step, total=now.steps, status=status)
            if bar.disable and now.gap != said:
                said = now.gap
                console.print(f"{name}: step {now.step}{of}  {status}")

        yield show
    say_skipped(name, skipped)


@contextmanager
def counting_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work of known length; yields what is called with (done, in all)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def videos_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with videos a second and the time left; yields what is called with (videos, about how many in all)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} videos"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:,.0f} videos/s" if speed else "")

        yield show


def counted(batches: Iterable[Batch], description: str, total: int) -> Iterator[Batch]:
    """The same batches, with `videos_bar` while they pass; then what was left out, if anything was."""
    videos, skipped = 0, Skipped()
    with videos_bar(description) as show:
        for batch in batches:
            yield batch
            videos += len(batch)
            skipped += batch.skipped
            show(videos, total)
    say_skipped(description, skipped)


def say(line: str) -> None:
    """One line."""
    console.print(line)


def say_skipped(what: str, skipped: Skipped) -> None:
    """What was left out, if anything was."""
    if skipped:
        console.print(f"{what}: {skipped}")
