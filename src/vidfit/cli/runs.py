"""Commands that take a recipe or a run folder: run, fit, train, demo, recipes, report."""

from pathlib import Path
from typing import Annotated

import typer

from vidfit.cli.app import Overrides, Overwrite, RecipeFile, RunFolder, SkipCorrupt, Unlabelled, app
from vidfit.cli.terminal import progress_bar
from vidfit.cli.videos import label


@app.command()
def run(
    recipe: RecipeFile,
    output: RunFolder,
    overrides: Overrides = None,
    skip_corrupt: SkipCorrupt = False,
    unlabelled: Unlabelled = None,
    overwrite: Overwrite = False,
) -> None:
    """Run a whole recipe: train, quantise, pack, evaluate. A second call skips what is done.

    Writes OUTPUT/model.onnx, OUTPUT/report.html, OUTPUT/summary.json and each member's checkpoints and log.
    """
    from vidfit.pipeline import run as run_recipe
    from vidfit.summary import print_summary

    with progress_bar() as on_progress:
        summary = run_recipe(_recipe(recipe, overrides, skip_corrupt, unlabelled), output, overwrite, on_progress)
    print_summary(summary, output)


@app.command()
def fit(
    data: Annotated[
        list[str],
        typer.Argument(help="Labelled videos (a folder, a table), a folder of `vidfit extract`, or shards."),
    ],
    budget: Annotated[str, typer.Option(help="Bytes the file may take: 1GB (10^9), 1GiB (2^30), 20MB, ...")],
    output: RunFolder,
    time: Annotated[str, typer.Option(help="Time to try and pack: 10m, 1h, 2d. Extraction comes on top.")] = "1h",
    eval: Annotated[
        list[str] | None, typer.Option(help="Shards to measure the file on, at the end. May be repeated.")
    ] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Label names of shards, a CSV.")] = None,
    skip_corrupt: SkipCorrupt = False,
    with_extractor: Annotated[
        bool, typer.Option("--with-extractor", help="Put the models for pictures and sounds into the file too.")
    ] = False,
    precision: Annotated[
        float | None,
        typer.Option(help="How many of the labels it gives shall be right, such as 0.9. Default: best F1."),
    ] = None,
) -> None:
    """Make the best file under a budget from labelled videos, without a recipe.

    Tries members of several families, keeps those that help and packs them. Writes OUTPUT/model.onnx, report.html and
    recipe.yaml, which says what was decided. Ctrl-C ends the trying and packs the best so far. The same command
    resumes; a longer --time tries more.
    """
    from vidfit.fitting.budget import check_budget
    from vidfit.fitting.fit import fit as fit_videos
    from vidfit.summary import print_summary

    check_budget(budget, data, with_extractor)
    with progress_bar() as on_progress:
        summary = fit_videos(
            data, budget, output, time, eval or (), vocabulary, skip_corrupt, on_progress, with_extractor, precision
        )
    print_summary(summary, output)


@app.command()
def train(
    recipe: RecipeFile,
    output: RunFolder,
    member: Annotated[list[str] | None, typer.Option(help="Only this member. May be repeated.")] = None,
    overrides: Overrides = None,
    skip_corrupt: SkipCorrupt = False,
    unlabelled: Unlabelled = None,
    overwrite: Overwrite = False,
) -> None:
    """Train the members of a recipe, or some of them. Resumes from the last checkpoint."""
    from vidfit.errors import RecipeError
    from vidfit.locks import locked
    from vidfit.pipeline import Run
    from vidfit.run_data import tell_of_labels

    parsed = _recipe(recipe, overrides, skip_corrupt, unlabelled)
    for name in member or ():
        if name not in parsed.members:
            raise RecipeError(f"--member {name}: {recipe} has the members {', '.join(parsed.members)}")
    with locked(output), progress_bar() as on_progress:
        wanted = Run(parsed, output, overwrite, member, on_progress)
        tell_of_labels(wanted.data)
        for name in member or parsed.members:
            wanted.train(name)


@app.command()
def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default demo-run or demo-videos-run.")
    ] = None,
    videos: Annotated[bool, typer.Option("--videos", help="From video files to a timeline.")] = False,
) -> None:
    """The whole path on generated data, in minutes.

    By default on features: four families and a baseline, distilled, in one file under 2 MB. With `--videos` on clips:
    their features, a model, and what it says of four new clips. That needs `pip install 'vidfit[videos]'`.
    """
    from vidfit.demo import run_demo, run_video_demo
    from vidfit.summary import print_summary

    folder = output or Path("demo-videos-run" if videos else "demo-run")
    with progress_bar() as on_progress:
        summary = (run_video_demo if videos else run_demo)(folder, on_progress)
    print_summary(summary, folder / "run")
    if videos:
        command = f"vidfit label {folder / 'run' / 'model.onnx'} {folder / 'new'}"
        print(f"\nWhat it says of new clips ({command}); the truth is in {folder / 'new' / 'segments.csv'}:")
        label(str(folder / "run" / "model.onnx"), [str(folder / "new" / "labels.csv")])


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="The recipe to copy. Without one, all are listed.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; by default NAME.yaml.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """List the recipes that come with vidfit, or copy one to start your own from."""
    from vidfit.bundled_recipes import copy_recipe, first_lines

    if name is None:
        for recipe, line in first_lines().items():
            print(f"{recipe:<18} {line}")
        return
    target = output or Path(f"{name}.yaml")
    copy_recipe(name, target, overwrite)
    print(f"{target}: point `data` at your shards, then: vidfit run {target} -o RUN")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder: what `vidfit run` wrote to.")],
) -> None:
    """Write RUN/report.html again: curves, levers, frontier, bytes, labels and calibration of a run on one page."""
    from vidfit.report.page import write_report

    print(write_report(run))


def _recipe(path: Path, overrides: list[str] | None, skip_corrupt: bool, unlabelled: str | None):
    from vidfit.recipe import load_recipe

    extra = ["data.skip_corrupt=true"] if skip_corrupt else []
    extra += [f"data.unlabelled={unlabelled}"] if unlabelled else []
    return load_recipe(path, (*(overrides or ()), *extra))
