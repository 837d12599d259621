"""The command line: one verb a stage, each thin. Parse, call, print.

A user's mistake ends with one line on standard error and exit code 2, never with a traceback.
"""

import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from importlib.metadata import version
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from pydantic import ValidationError

from vidfit.errors import ModelFileError, OutputError, VidfitError, reason
from vidfit.features.synthetic import CorpusConfig
from vidfit.quantization import Codebook

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Classify videos from frame features with the best model that fits a given number of bytes.

    Begin with `vidfit demo -o demo-run`; then copy a recipe, point it at your shards and `vidfit run` it.
    SHARDS are TFRecord files, folders of them, caches, or globs. MODEL is a packed .onnx file, a member's folder in a
    run (RUN/members/NAME) or its .safetensors file.""",
)

Shards = Annotated[list[str], typer.Argument(help="TFRecord files, folders of them, caches or (quoted) globs.")]
Model = Annotated[Path, typer.Argument(help="A packed .onnx file, or a member: its folder or .safetensors file.")]
RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file; see docs/reference/recipe.md.")]
RunFolder = Annotated[Path, typer.Option("--output", "-o", help="The run folder; made if absent, gone on with if not.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe key: training.steps=100. May be repeated.")
]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Pass over corrupt records and say how many.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what the output holds already.")]
FillUp = Annotated[
    int,
    typer.Option(
        min=0,
        help="Show the model S frames of each video, its own and then random ones of its own, as the winners of "
        "2018 did (S = 300): for comparison. By default, 0, every real frame counts once.",
        metavar="S",
    ),
]
Threads = Annotated[int, typer.Option(help="Threads for ONNX Runtime, and so batches at once; 0 is one a core.")]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Videos of a batch, of which up to four are computed at once: more take more memory.")
]


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
    """What precedes a verb."""


@app.command()
def run(
    recipe: RecipeFile,
    output: RunFolder,
    overrides: Overrides = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
) -> None:
    """Do a whole recipe: train, quantise, pack, evaluate. A second call skips what is done.

    Leaves OUTPUT/model.onnx, OUTPUT/report.html, OUTPUT/summary.json and each member's checkpoints and log.
    """
    from vidfit.pipeline import run as run_recipe
    from vidfit.summary import print_summary

    print_summary(run_recipe(_recipe(recipe, overrides, skip_corrupt), output, overwrite), output)


@app.command()
def train(
    recipe: RecipeFile,
    output: RunFolder,
    member: Annotated[list[str] | None, typer.Option(help="Only this member. May be repeated.")] = None,
    overrides: Overrides = None,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the members of a recipe, or some of them. Goes on from the last checkpoint."""
    from vidfit.errors import RecipeError
    from vidfit.pipeline import Run

    parsed = _recipe(recipe, overrides, skip_corrupt)
    for name in member or ():
        if name not in parsed.members:
            raise RecipeError(f"--member {name}: {recipe} has the members {', '.join(parsed.members)}")
    stages = Run(parsed, output, overwrite, member)
    for name in stages.names:
        stages.train(name)


@app.command()
def soft_label(
    teacher: Annotated[Path, typer.Argument(help="A packed .onnx file, or a member: its folder or .safetensors file.")],
    shards: Shards,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the soft labels; made if absent.")],
    more: Annotated[
        list[Path] | None, typer.Option("--teacher", help="One more teacher; they are averaged. May be repeated.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Probabilities kept of a video.")] = 100,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
) -> None:
    """Write what teachers say of the videos in some shards, for students to learn from.

    One small Parquet file a shard, keyed by video id; a second call goes on where the first was stopped. Point a
    recipe's `distill.soft_labels` at the folder.
    """
    from vidfit import distributed, progress
    from vidfit.features.shards import expand_shards
    from vidfit.inference.distributed_jobs import soft_label as label
    from vidfit.sizes import format_size
    from vidfit.training.checkpoint import member_file
    from vidfit.training.distillation import soft_labels_file

    paths = expand_shards(shards)
    files = list(map(member_file, [teacher, *(more or ())]))
    if len({file.resolve() for file in files}) < len(files):
        raise VidfitError("--teacher: names a teacher twice; leave one out")
    with progress.counting_bar("labelling shards") as show:
        labelled, skipped = distributed.together(
            label, files, paths, output, top_k, skip_corrupt, overwrite, threads, here={"show": show}
        )
    progress.say_skipped("labelling", skipped)
    size = sum(soft_labels_file(output, shard).stat().st_size for shard in paths)
    share = size / sum(shard.stat().st_size for shard in paths)
    what = f"{labelled} of {len(paths)} shards labelled now"
    print(f"{output}: {what}; in all {format_size(size)}, {share:.1%} of the shards")


@app.command()
def quantize(
    member: Annotated[Path, typer.Argument(help="A member: its folder in a run or its .safetensors file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default quantized.safetensors beside the member.")
    ] = None,
    codebook: Annotated[
        Codebook,
        typer.Option(
            help="Where the 256 levels lie. Uniform ones can run on integer kernels; the others are for comparison."
        ),
    ] = "uniform",
    overwrite: Overwrite = False,
) -> None:
    """Quantise a member's big tensors (above 17,000 elements) to 8 bits."""
    from vidfit.quantization.member import QUANTIZED, quantize_member
    from vidfit.sizes import format_size
    from vidfit.training.checkpoint import member_file

    _refuse_packed(member)
    source = member_file(member)
    target = output or source.with_name(QUANTIZED)
    _refuse_to_overwrite(target, overwrite, [source])
    quantize_member(source, target, codebook)
    before, after = source.stat().st_size, target.stat().st_size
    print(f"{target}: {format_size(after)}, from {format_size(before)}")


@app.command()
def pack(
    sources: Annotated[
        list[Path], typer.Argument(help="A run folder; or members: folders in a run or .safetensors files.")
    ],
    budget: Annotated[
        list[str],
        typer.Option(help="Bytes the file may take: 1GB (10^9), 1GiB (2^30), 20MB, ... Of a run, may be repeated."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Of members: the .onnx file to write.")] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of members: one's weight in the average, once for each; equal if absent."),
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(min=0, help="Of a run: milliseconds that a video may take on this machine.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(help="Of a run: pack these members with equal weights, so that only widths are chosen."),
    ] = None,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable", help="Use standard ONNX operators alone; slower where weights have less than 8 bits."
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Pack an ensemble into one ONNX file under a budget.

    Of a RUN, the members, the width of each of their tensors (2, 4, 6 or 8 bits) and the weights in the average are
    chosen for you, to the best GAP on the validation shards that fits: RUN/packed/BUDGET.onnx for each budget. The
    first call measures what widths cost, in minutes; later ones take seconds.

    Of MEMBERS, those given are packed; float ones are quantised to 8 bits on the way.
    """
    from vidfit.export.graph import PackedMember, write_graph
    from vidfit.quantization.member import load_member
    from vidfit.search.packer import open_run
    from vidfit.sizes import format_size, parse_size
    from vidfit.training.checkpoint import member_file

    if len(sources) == 1 and (output is None or (sources[0] / "recipe.yaml").is_file()):
        if output or weight:
            raise VidfitError("--output and --weight are for members; of a run the files are RUN/packed/BUDGET.onnx")
        if member and max_ms is not None:
            raise VidfitError("--max-ms limits the choice of members; leave --member out, or --max-ms")
        for path in open_run(sources[0], portable=portable, members=member).pack_named(budget, max_ms, overwrite):
            print(path)
        return
    if output is None or len(budget) > 1 or max_ms is not None or member:
        raise VidfitError(
            "of members, give --output and one --budget; several, --member and --max-ms are for a run folder"
        )
    limit = parse_size(budget[0])
    weights = weight or [1.0] * len(sources)
    if len(weights) != len(sources) or not all(0 < weight < math.inf for weight in weights):
        raise VidfitError(f"--weight: give {len(sources)} positive weights, one a member")
    _refuse_packed(*sources)
    _refuse_to_overwrite(output, overwrite, map(member_file, sources))
    loaded = [load_member(path).quantized() for path in sources]
    packed = [PackedMember(*pair) for pair in zip(loaded, weights, strict=True)]
    write_graph(output, packed, limit, portable=portable)
    print(f"{output}: {len(sources)} members, {format_size(output.stat().st_size)} of {format_size(limit)}")


@app.command()
def frontier(
    directory: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    budget: Annotated[
        list[str] | None,
        typer.Option(help="A point of the curve, such as 10MB. May be repeated; by default twelve from end to end."),
    ] = None,
) -> None:
    """Measure GAP over bytes, from the smallest file to the unconstrained ensemble, on the eval shards.

    Every point is a file, written, read again and measured. Leaves RUN/frontier.json and RUN/frontier.csv, and a plot
    in RUN/report.html; beside it stand the curves that there would be without a search.
    """
    from vidfit.report.page import write_report
    from vidfit.search.frontier import measure_frontier
    from vidfit.search.packer import open_run
    from vidfit.summary import print_frontier

    print_frontier(measure_frontier(open_run(directory), budget or ()))
    print(write_report(directory))


@app.command()
def evaluate(
    model: Model,
    shards: Shards,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    skip_corrupt: SkipCorrupt = False,
    threads: Threads = 0,
    batch_size: BatchSize = 16,
    fill_up: FillUp = 0,
) -> None:
    """Measure a model on labelled shards: GAP@20, mAP, Hit@1, PERR."""
    from vidfit import distributed, progress
    from vidfit.features.shards import expand_shards
    from vidfit.files import replacing
    from vidfit.inference.distributed_jobs import measure

    if json_file:
        _refuse_other_than_json(json_file)
    paths = expand_shards(shards)
    # Entered before the evaluation, so that a bad place is known at once.
    with replacing(json_file) if json_file else nullcontext() as partial:
        with progress.videos_bar("evaluating") as show:
            result = distributed.together(
                measure, model, paths, skip_corrupt, threads, fill_up, batch_size, here={"show": show}
            )
        progress.say_skipped("evaluating", int(result["skipped"]))
        for name, value in result.items():
            print(f"{name:<12} {value:.4f}" if isinstance(value, float) else f"{name:<12} {value:,}")
        if partial:
            partial.write_text(json.dumps(result, indent=2) + "\n")


@app.command()
def predict(
    model: Model,
    shards: Shards,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .csv (Kaggle's VideoId,LabelConfidencePairs), .parquet or .jsonl.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="Labels a video.")] = 20,
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    batch_size: BatchSize = 16,
    fill_up: FillUp = 0,
) -> None:
    """Write the most probable labels of every video in some shards.

    Where it was stopped, a second call goes on: OUTPUT.partial keeps what is finished, shard by shard, until all are.
    """
    from vidfit import distributed, progress
    from vidfit.features.shards import expand_shards
    from vidfit.inference.distributed_jobs import predict as write

    paths = expand_shards(shards)
    options = (top_k, skip_corrupt, overwrite, threads, fill_up, batch_size)
    with progress.videos_bar("predicting") as show:
        made = distributed.together(write, model, paths, output, *options, here={"show": show})
    progress.say_skipped("predicting", made.skipped)
    before = f"; {made.resumed} of {len(paths)} shards were finished before" if made.resumed else ""
    print(f"{output}: {made.videos:,} videos{before}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A packed .onnx file.")],
    directory: Annotated[Path, typer.Argument(help="Folder for what is written.")],
    to: Annotated[Literal["tensorflow"], typer.Option(help="Who is to run it.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a packed file as a TensorFlow SavedModel: same inputs and output, as many bits a weight.

    Needs `pip install 'vidfit[tensorflow]'`; what is written needs TensorFlow alone (docs/guide/deploying.md).
    """
    from vidfit.export.tensorflow import write_saved_model
    from vidfit.sizes import format_size

    _refuse_to_overwrite(directory, overwrite, [model])
    write_saved_model(model, directory)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(f"{directory}: {format_size(size)}, from {format_size(model.stat().st_size)}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder: what `vidfit run` wrote to.")],
) -> None:
    """Write RUN/report.html again: one page of a run's curves, levers, frontier, bytes, labels and calibration."""
    from vidfit.report.page import write_report

    print(write_report(run))


@app.command()
def inspect(
    shards: Shards,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Say what a set of shards holds: records, modalities and their sizes, lengths, labels."""
    from vidfit.features.inspect import inspect_shards
    from vidfit.features.shards import expand_shards

    _print_mapping(inspect_shards(expand_shards(shards), skip_corrupt), as_json)


@app.command()
def cache(
    shards: Annotated[list[str], typer.Argument(help="TFRecord files, folders of them or (quoted) globs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the cache; made if absent, else added to.")],
    skip_corrupt: SkipCorrupt = False,
    overwrite: Overwrite = False,
) -> None:
    """Write shards once more, so that training reads them from memory maps in any order.

    Takes as much room as the shards. Wherever shards are asked for, the folder can be given. One Arrow file a shard
    (docs/reference/file-formats.md); a second call resumes, and compares what is there with the shards.
    """
    from vidfit import progress
    from vidfit.features.cache_writer import write_cache
    from vidfit.features.shards import expand_shards, infer_id_key, infer_spec
    from vidfit.sizes import format_size

    paths = expand_shards(shards)
    spec = infer_spec(paths, skip_corrupt)
    with progress.counting_bar("caching shards") as show:
        index, added = write_cache(paths, output, infer_id_key(paths), spec, skip_corrupt, overwrite, show)
    entries = index.shards.values()
    progress.say_skipped("caching", sum(entry.skipped for entry in entries))
    videos, size = sum(entry.records for entry in entries), sum(entry.bytes for entry in entries)
    print(f"{output}: {added} of {len(paths)} shards cached now; in all {videos:,} videos, {format_size(size)}")


def synth(
    directory: Annotated[Path, typer.Argument(help="Folder for the corpus; must not exist, or be empty.")], **numbers
):
    """Generate a corpus in YouTube-8M's frame-level format: train/, validation/, eval/ and vocabulary.csv.

    Labels show as pairs of words in parts of a video; deterministic by seed.
    """
    from vidfit import progress
    from vidfit.features.synthetic import write_corpus

    try:
        config = CorpusConfig(**numbers)
    except ValidationError as error:
        option = "".join(f"--{name}: ".replace("_", "-") for name in error.errors()[0]["loc"])
        raise VidfitError(option + error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    with progress.counting_bar("generating videos") as show:
        write_corpus(directory, config, show)
    print(f"{directory}: {config.train_videos + config.validation_videos + config.eval_videos:,} videos")


# Every number of the corpus is an option: its name, default and help stand in CorpusConfig alone.
_parameters = signature(synth).parameters
synth.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        _parameters["directory"],
        *(
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[field.annotation, typer.Option(help=field.description)],
            )
            for name, field in CorpusConfig.model_fields.items()
        ),
    ]
)
app.command()(synth)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for corpus and run.")] = Path("demo-run"),
) -> None:
    """The whole path on a generated corpus, in minutes: four families and a baseline into one file under 2 MB."""
    from vidfit.demo import run_demo
    from vidfit.summary import print_summary

    print_summary(run_demo(output), output / "run")


def _print_mapping(mapping: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(mapping, indent=2))
        return
    for key, value in mapping.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        print(f"{key:<12} {value}")


def _recipe(path: Path, overrides: list[str] | None, skip_corrupt: bool):
    from vidfit.recipe import load_recipe

    extra = ("data.skip_corrupt=true",) if skip_corrupt else ()
    return load_recipe(path, (*(overrides or ()), *extra))


def _refuse_packed(*members: Path) -> None:
    for path in members:
        if path.suffix == ".onnx":
            raise ModelFileError(f"{path}: is a packed file; give members (RUN/members/NAME)")


def _refuse_other_than_json(path: Path) -> None:
    """Not every file: who takes `--json` for a flag, as it is with `inspect`, would lose the first shard."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise OutputError(f"--json {path}: holds something else than JSON; choose another name")


def _refuse_to_overwrite(path: Path, overwrite: bool, sources: Iterable[Path]) -> None:
    if path.resolve() in (source.resolve() for source in sources):
        raise OutputError(f"{path}: is the member itself; choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name or add --overwrite")


def main() -> None:
    """Entry point of the `vidfit` command."""
    # As a Ctrl-C does it, and not at once: what is half done is cleaned up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if "WORLD_SIZE" in os.environ:  # torchrun's
            from vidfit import distributed

            distributed.lead(app)
        else:
            app()
    except VidfitError as error:
        _stop(2, str(error))
    except OSError as error:
        _stop(1, f"{error.filename}: {error.strerror}" if error.filename else reason(error))
    except (MemoryError, RuntimeError) as error:
        # PyTorch and ONNX Runtime have exceptions of their own for it, and only their words in common.
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        _stop(1, f"out of memory; take smaller batches or a smaller model ({reason(error)})")
    except SystemExit as stop:
        if stop.code in (130, 143):  # the first is what typer makes of Ctrl-C
            _stop(stop.code, "stopped; run, train, predict and demo go on from here when called again")
        raise


def _stop(code: int, message: str) -> NoReturn:
    print(f"vidfit: {message}", file=sys.stderr)
    sys.exit(code)
