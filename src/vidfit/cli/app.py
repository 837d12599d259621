"""The `vidfit` application, and the arguments that several commands share."""

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from vidfit.cli.terminal import show_log
from vidfit.errors import ModelFileError, OutputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Classify videos with the best model that fits a given number of bytes.

    Start with `vidfit demo`. With labelled videos, `vidfit fit` does the rest. To decide yourself, copy a recipe with
    `vidfit recipes`, point it at your shards and `vidfit run` it.

    SHARDS are TFRecord files, folders of them, caches, or globs. MODEL is a packed .onnx file, a member's folder in a
    run (RUN/members/NAME) or its .safetensors file.""",
)

Shards = Annotated[list[str], typer.Argument(help="TFRecord files, folders of them, caches or (quoted) globs.")]
Model = Annotated[Path, typer.Argument(help="A packed .onnx file, or a member: its folder or .safetensors file.")]
RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
RunFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Run folder. Created if missing; resumed if it exists.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe key: training.steps=100. May be repeated.")
]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Skip corrupt records and report how many.")]
Unlabelled = Annotated[
    Literal["keep", "skip"] | None,
    typer.Option(help="Videos without a label: keep them as videos that no label fits (the default), or skip them."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the output already holds.")]
FillUp = Annotated[
    int,
    typer.Option(
        min=0,
        help="Show the model S frames of each video: its own, then random ones of them, as the winners of 2018 did "
        "(S = 300). For comparison only. The default, 0, uses every frame once.",
        metavar="S",
    ),
]
Threads = Annotated[
    int, typer.Option(help="Threads for ONNX Runtime, and so batches computed at once. 0 means one per core.")
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Videos in a batch. Up to four batches are computed at once; more take more memory.")
]
Window = Annotated[
    float | None,
    typer.Option(
        help="Make the timeline of windows of so many seconds. By default it comes from frame probabilities if the "
        "model has them, else from windows of 5 seconds."
    ),
]
Hop = Annotated[float | None, typer.Option(help="Seconds from one window to the next. 1 by default.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"vidfit {version('vidfit')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""
    show_log()


def refuse_packed(*members: Path) -> None:
    """Raises ModelFileError for a packed file where a member is expected."""
    for path in members:
        if path.suffix == ".onnx":
            raise ModelFileError(f"{path}: is a packed file; give members (RUN/members/NAME)")


def refuse_to_overwrite(path: Path, overwrite: bool, sources: Iterable[Path]) -> None:
    """Raises OutputError if `path` exists and may not be replaced, or is one of the inputs."""
    if path.resolve() in (source.resolve() for source in sources):
        raise OutputError(f"{path}: is also the input; choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name or add --overwrite")
