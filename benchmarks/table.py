"""What every benchmark does with its rows: a table for people and, with `--json FILE`, the same for machines."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


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
