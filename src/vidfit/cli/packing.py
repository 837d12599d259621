"""Commands that make files to ship: pack, pack-members, frontier, quantize, export."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from vidfit.cli.app import Overwrite, app, refuse_packed, refuse_to_overwrite
from vidfit.cli.terminal import progress_bar
from vidfit.errors import VidfitError

Portable = Annotated[
    bool,
    typer.Option("--portable", help="Use standard ONNX operators only. Weights of less than 8 bits take 8 in memory."),
]

WithExtractor = Annotated[
    bool, typer.Option("--with-extractor", help="Put the models for pictures and sounds into the file too.")
]


@app.command()
def pack(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder: what `vidfit run` wrote to. With extractor, several to choose among.", metavar="RUN..."
        ),
    ],
    budget: Annotated[
        list[str], typer.Option(help="Bytes the file may take: 1GB (10^9), 1GiB (2^30), 20MB, ... May be repeated.")
    ],
    max_ms: Annotated[
        float | None, typer.Option(min=0, help="Milliseconds that a video may take on this machine.")
    ] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(help="Pack these members with equal weights; only bit widths are chosen. May be repeated."),
    ] = None,
    portable: Portable = False,
    with_extractor: WithExtractor = False,
    overwrite: Overwrite = False,
) -> None:
    """Pack the best ensemble of a run that fits a budget: RUN/packed/BUDGET.onnx for each budget.

    Of several runs, on features of different models, each file comes from the best. It goes to the first one's folder.

    vidfit chooses the members, the bit width of each of their tensors (2, 4, 6 or 8) and their weights in the average,
    for the best GAP on the validation shards. The first call takes minutes; later ones take seconds.
    A run of `vidfit fit` with few videos has no validation shards: call `vidfit fit` with the new budget and
    another folder.
    """
    from vidfit.search.runs import open_runs

    for run in runs:
        of_member = run.parent.name == "members" and not (run / "recipe.yaml").exists()
        if run.suffix in (".onnx", ".safetensors") or of_member:
            raise VidfitError(f"{run}: is not a run folder; to pack members you name, use `vidfit pack-members`")
    if member and max_ms is not None:
        raise VidfitError("--max-ms limits the choice of members; leave --member out, or --max-ms")
    with progress_bar() as on_progress:
        options = {"portable": portable, "members": member, "with_extractor": with_extractor}
        paths = open_runs(runs, **options, on_progress=on_progress).pack_named(budget, max_ms, overwrite)
    for path in paths:
        print(path)


@app.command()
def pack_members(
    members: Annotated[list[Path], typer.Argument(help="Members: folders in a run or .safetensors files.")],
    budget: Annotated[str, typer.Option(help="Bytes the file may take: 1GB (10^9), 1GiB (2^30), 20MB, ...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    weight: Annotated[
        list[float] | None,
        typer.Option(help="A member's weight in the average. Give one for each member, or none for equal weights."),
    ] = None,
    portable: Portable = False,
    frame_probabilities: Annotated[
        bool, typer.Option("--frame-probabilities", help="Add probabilities of each frame, from frame classifiers.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Pack the members you name into one ONNX file. Float members are quantised to 8 bits first."""
    from vidfit.export.graph import PackedMember, write_graph
    from vidfit.quantization.member import load_member
    from vidfit.sizes import format_size, parse_size
    from vidfit.training.checkpoint import member_file

    limit = parse_size(budget)
    weights = weight or [1.0] * len(members)
    if len(weights) != len(members) or not all(0 < weight < math.inf for weight in weights):
        raise VidfitError(f"--weight: give {len(members)} positive weights, one for each member")
    refuse_packed(*members)
    refuse_to_overwrite(output, overwrite, map(member_file, members))
    loaded = [load_member(path).quantized() for path in members]
    packed = [PackedMember(*pair) for pair in zip(loaded, weights, strict=True)]
    write_graph(output, packed, limit, portable=portable, frame_probabilities=frame_probabilities)
    print(f"{output}: {len(members)} members, {format_size(output.stat().st_size)} of {format_size(limit)}")


@app.command()
def frontier(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run folder. With extractor, several to choose among.", metavar="RUN..."),
    ],
    budget: Annotated[
        list[str] | None,
        typer.Option(help="A point of the curve, such as 10MB. May be repeated; by default twelve from end to end."),
    ] = None,
    with_extractor: WithExtractor = False,
) -> None:
    """Measure GAP over bytes on the eval shards, from the smallest file to the unconstrained ensemble.

    Every point is a file that is written, read again and measured. Writes RUN/frontier.json and RUN/frontier.csv, and
    plots the curve in RUN/report.html with those of simpler ways to save bytes. RUN is the first of several.
    """
    from vidfit.report.page import write_report
    from vidfit.search.frontier import measure_frontier
    from vidfit.search.runs import open_runs
    from vidfit.summary import print_frontier

    with progress_bar() as on_progress:
        opened = open_runs(runs, with_extractor=with_extractor, on_progress=on_progress)
        document = measure_frontier(opened, budget or ())
    print_frontier(document)
    print(write_report(runs[0]))


@app.command()
def quantize(
    member: Annotated[Path, typer.Argument(help="A member: its folder in a run or its .safetensors file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="By default quantized.safetensors beside the member.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Quantise a member's big tensors (above 17,000 elements) to 8 bits."""
    from vidfit.quantization.member import QUANTIZED, quantize_member
    from vidfit.sizes import format_size
    from vidfit.training.checkpoint import member_file

    refuse_packed(member)
    source = member_file(member)
    target = output or source.with_name(QUANTIZED)
    refuse_to_overwrite(target, overwrite, [source])
    quantize_member(source, target)
    before, after = source.stat().st_size, target.stat().st_size
    print(f"{target}: {format_size(after)}, from {format_size(before)}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A packed .onnx file.")],
    output: Annotated[Path, typer.Argument(help="What to write: a folder; for `web-model` an .onnx file.")],
    to: Annotated[Literal["web", "web-model", "tensorflow", "triton", "ort"], typer.Option(help="What will run it.")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="For `web`: the folder of onnxruntime-web, which the page needs. `npm` puts it into node_modules."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a packed file for another runtime, or as a web page.

    `web` is a folder of static files: a page that labels videos in the browser. It needs a model that was packed with
    `--with-extractor`, and `--bundle`. `web-model` is an ONNX file that runs fast in onnxruntime-web. `tensorflow` is a
    SavedModel; it needs `pip install 'vidfit[tensorflow]'`, and running the result needs TensorFlow only.
    `triton` is a model of Triton Inference Server. `ort` is ONNX Runtime's compact format for phones, and the operators
    that a small build of it needs.
    """
    from vidfit.sizes import format_size

    if to == "web" and bundle is None:
        raise VidfitError(
            "--to web needs --bundle, the folder of onnxruntime-web; run `npm install onnxruntime-web`, then add "
            "--bundle node_modules/onnxruntime-web"
        )
    if to != "web" and bundle is not None:
        raise VidfitError("--bundle is for --to web; leave it out")
    refuse_to_overwrite(output, overwrite, [model])
    if bundle is not None:
        from vidfit.export.web_page import write_web_page
        from vidfit.inference.timeline import TimelineOptions

        write_web_page(model, output, bundle, *TimelineOptions().seconds)
    else:
        _writer(to)(model, output)
    size = sum(path.stat().st_size for path in (output, *output.rglob("*")) if path.is_file())
    print(f"{output}: {format_size(size)}, from {format_size(model.stat().st_size)}")


def _writer(to: str) -> Callable[[Path, Path], None]:
    if to == "tensorflow":
        from vidfit.export.tensorflow import write_saved_model as write
    elif to == "web-model":
        from vidfit.export.web_model import write_web_model as write
    elif to == "triton":
        from vidfit.export.triton import write_triton_model as write
    else:
        from vidfit.export.phones import write_for_phones as write
    return write
