"""What benchmarks share: the fastest of some calls; rows as a table for people and, by `--json FILE`, for machines."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def fastest(
    work: Callable[[], Any], seconds: float = 3.0, most: int = 10, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of the fastest of some calls after a first one: at most so many, and as take so many seconds."""
    work()
    taken: list[float] = []
    while len(taken) < most and sum(taken) < seconds:
        begun = clock()
        work()
        taken.append(clock() - begun)
    return min(taken)


def options(description: str) -> argparse.ArgumentParser:
    """A parser with `--json FILE`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser


def publish(title: str, rows: list[dict[str, Any]], file: Path | None) -> None:
    """Print the rows and write them to `file`."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(
            *(
                f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
                for value in row.values()
            )
        )
    Console().print(table)
    if file:
        file.write_text(json.dumps(rows, indent=2) + "\n")
