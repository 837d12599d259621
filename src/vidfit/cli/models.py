"""Commands that run a model on shards: evaluate, predict, soft-label."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from vidfit.cli.app import (
    BatchSize,
    FillUp,
    Hop,
    Model,
    Overwrite,
    Shards,
    SkipCorrupt,
    Threads,
    Unlabelled,
    Window,
    app,
)
from vidfit.cli.terminal import progress_bar
from vidfit.errors import OutputError, VidfitError

log = logging.getLogger(__name__)

# Value of --segments for the ratings in the shards, where a table has a suffix.
_RATED = Path("rated")
_COLUMNS: dict[str, str] = {"cells": "seconds", "average_precision": "average precision"}


@app.command()
def evaluate(
    model: Model,
    shards: Shards,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    skip_corrupt: SkipCorrupt = False,
    unlabelled: Unlabelled = None,
    threads: Threads = 0,
    batch_size: BatchSize = 16,
    fill_up: FillUp = 0,
    segments: Annotated[
        Path | None,
        typer.Option(
            help="Measure the timeline instead: against the intervals in this table (path,label,start,end), or with "
            "`rated` against the rated segments in the shards, by MAP@K."
        ),
    ] = None,
    window: Window = None,
    hop: Hop = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability from which on a label holds in the timeline. By default each label's own."),
    ] = None,
) -> None:
    """Measure a model on labelled shards: GAP@20, mAP, Hit@1, PERR. With --segments, measure its timeline."""
    from vidfit.evaluation.evaluate import skipped_of
    from vidfit.files import replacing
    from vidfit.inference import on_shards
    from vidfit.inference.evaluate_timeline import evaluate_segments, evaluate_timeline
    from vidfit.progress import log_skipped

    of_timeline = _given(window=window, hop=hop, threshold=threshold)
    _check_timeline_options(segments, of_timeline, [unlabelled, fill_up])
    measure: Callable[..., dict[str, Any]] = on_shards.evaluate
    asked: dict[str, Any] = {"labelled_only": unlabelled == "skip", "fill_up": fill_up}
    if segments == _RATED:
        measure, asked = evaluate_segments, dict(of_timeline)
    elif segments:
        measure, asked = evaluate_timeline, {"segments": segments, **of_timeline}
    asked |= {"skip_corrupt": skip_corrupt, "threads": threads, "batch_size": batch_size}
    if json_file:
        _refuse_other_than_json(json_file)
    # Entered before the evaluation, so that a bad place is known at once.
    with replacing(json_file) if json_file else nullcontext() as partial:
        with progress_bar() as on_progress:
            result = measure(model, shards, on_progress=on_progress, **asked)
        log_skipped("evaluating", skipped_of(result))
        if count := int(result.get("unlabelled", 0)):
            what = "were left out" if unlabelled == "skip" else "count as videos that no label fits"
            log.warning("evaluating: %s videos have no label and %s", f"{count:,}", what)
        _print_figures(result)
        if partial:
            partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@app.command()
def predict(
    model: Model,
    shards: Shards,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .csv (Kaggle's VideoId,LabelConfidencePairs), .parquet or .jsonl.")
    ],
    top_k: Annotated[
        int | None,
        typer.Option(min=1, help="Labels written for each video, 20 by default; segments for each label, 100,000."),
    ] = None,
    segments: Annotated[
        bool,
        typer.Option(
            "--segments",
            help="Write the best segments of each label instead: 5 seconds long, from 0, 5, 10, ... A .csv for the "
            "YouTube-8M challenge of 2019, Class,Segments.",
        ),
    ] = False,
    classes: Annotated[
        Path | None, typer.Option(help="With --segments: only these labels, a CSV file with the column Index.")
    ] = None,
    window: Window = None,
    hop: Hop = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    batch_size: BatchSize = 16,
    fill_up: FillUp = 0,
) -> None:
    """Write the most probable labels of every video in some shards.

    If stopped, run the same command again: it resumes. OUTPUT.partial keeps the finished shards until all are done.
    With --segments it starts again.
    """
    from vidfit.inference import on_shards
    from vidfit.inference.segment_predictions import predict_segments
    from vidfit.progress import log_skipped

    of_segments = _given(classes=classes, window=window, hop=hop)
    if segments and fill_up:
        raise VidfitError("--fill-up has no meaning for segments; leave it out with --segments")
    if of_segments and not segments:
        raise VidfitError("--classes, --window and --hop are for segments; add --segments")
    asked = {"skip_corrupt": skip_corrupt, "overwrite": overwrite, "threads": threads, "batch_size": batch_size}
    asked |= _given(top_k=top_k)
    with progress_bar() as on_progress:
        if segments:
            made = predict_segments(model, shards, output, on_progress=on_progress, **asked, **of_segments)
            what = f"{made.segments:,} segments of {made.videos:,} videos, {made.classes:,} labels"
        else:
            made = on_shards.predict(model, shards, output, on_progress=on_progress, fill_up=fill_up, **asked)
            before = f"; {made.resumed} shards were finished before" if made.resumed else ""
            what = f"{made.videos:,} videos{before}"
    log_skipped("predicting", made.skipped)
    print(f"{output}: {what}")


@app.command()
def soft_label(
    teacher: Model,
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the soft labels; created if missing.")],
    more: Annotated[
        list[Path] | None, typer.Option("--teacher", help="One more teacher; they are averaged. May be repeated.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Probabilities kept for each video.")] = 100,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
) -> None:
    """Write the probabilities that teachers give the videos in some shards, for students to learn from.

    One small Parquet file for each shard, keyed by video id. A second call resumes. Point a recipe's
    `distill.soft_labels` at the folder.
    """
    from vidfit import distributed
    from vidfit.features.shards import expand_shards
    from vidfit.inference.distributed_jobs import soft_label as label
    from vidfit.progress import counter, log_skipped
    from vidfit.sizes import format_size
    from vidfit.training.checkpoint import member_file
    from vidfit.training.soft_labels import soft_labels_file

    paths = expand_shards(shards, log.warning)
    files = list(map(member_file, [teacher, *(more or ())]))
    if len({file.resolve() for file in files}) < len(files):
        raise VidfitError("--teacher: names a teacher twice; leave one out")
    with progress_bar() as on_progress:
        on_count = counter(on_progress, "labelling", "shards")
        labelled, skipped = distributed.on_all_ranks(
            label, files, paths, output, top_k, skip_corrupt, overwrite, threads, rank_0_only={"on_count": on_count}
        )
    log_skipped("labelling", skipped)
    size = sum(soft_labels_file(output, shard).stat().st_size for shard in paths)
    share = size / sum(shard.stat().st_size for shard in paths)
    what = f"{labelled} of {len(paths)} shards labelled now"
    print(f"{output}: {what}; in all {format_size(size)}, {share:.1%} of the shards")


def _given(**options: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _check_timeline_options(
    segments: Path | None, of_timeline: Mapping[str, float], of_videos: Sequence[object]
) -> None:
    """Raises VidfitError for options that would be ignored."""
    if segments and any(of_videos):
        raise VidfitError("--unlabelled and --fill-up have no meaning for a timeline; leave them out with --segments")
    if segments == _RATED and "threshold" in of_timeline:
        raise VidfitError("--threshold has no meaning for a ranking of segments; leave it out with --segments rated")
    if not segments and of_timeline:
        raise VidfitError("--window, --hop and --threshold are for a timeline; give the true intervals with --segments")


def _print_figures(result: dict[str, Any]) -> None:
    """A table of the labels, if there is one, and the other figures one by one."""
    from vidfit.summary import print_table

    if labels := result.get("labels"):
        columns: list[str] = [name for name in labels[0] if name != "name"]
        rows: list[tuple[str, ...]] = [("label", *(_COLUMNS.get(name, name) for name in columns))]
        rows += [(label["name"], *(_figure(label[name]) for name in columns)) for label in labels]
        print_table(rows, words={"label"})
        print()
    figures = {name: value for name, value in result.items() if name != "labels"}
    width = max(16 if labels else 12, *map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}} {_figure(value)}")


def _figure(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _refuse_other_than_json(path: Path) -> None:
    """Raises OutputError for a file that is not JSON: `--json` taken for a flag would replace the first shard."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise OutputError(f"--json {path}: holds something else than JSON; choose another name")
