"""The commands that take videos: extract, label."""

import logging
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from vidfit.cli.app import Hop, Overwrite, Window, app, refuse_to_overwrite
from vidfit.cli.terminal import progress_bar
from vidfit.errors import VidfitError

log = logging.getLogger(__name__)

_SPLIT = "train=0.8,validation=0.1,eval=0.1"

Videos = Annotated[
    list[str],
    typer.Argument(help="Videos, folders of them, (quoted) globs, or tables: CSV or JSONL with path and labels."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Probability from which on a label holds. By default each label's own, from the model's file."),
]


@app.command()
def extract(
    sources: Videos,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the features. Resumed if unfinished.")],
    split: Annotated[
        str, typer.Option(help="Shares of videos, chosen by id; a table's own split goes first.")
    ] = _SPLIT,
    like: Annotated[
        Path | None,
        typer.Option(help="Extract exactly as for this packed model or folder of features; its labels hold."),
    ] = None,
    image_model: Annotated[
        str,
        typer.Option(
            help="Model for pictures: efficientnet-lite0, 1 or 2 (larger), timm:NAME, youtube8m, an .onnx file with a "
            ".yaml card, or none."
        ),
    ] = "efficientnet-lite0",
    sound_model: Annotated[
        str, typer.Option(help="Model for sounds: yamnet, youtube8m, an .onnx file with a .yaml card, or none.")
    ] = "yamnet",
    rate: Annotated[float, typer.Option(help="Pictures and sounds per second.")] = 1.0,
    image_bytes: Annotated[int, typer.Option(min=1, help="Bytes kept of a picture.")] = 256,
    sound_bytes: Annotated[int, typer.Option(min=1, help="Bytes kept of a sound.")] = 128,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one per core.")] = 0,
) -> None:
    """Make shards of videos: frames and sound, embedded by models for pictures and sounds.

    Leaves OUTPUT/shards, vocabulary.csv, extractor.json, videos.csv (what was found), failed.csv (what cannot be read,
    and why). Needs `pip install 'vidfit[videos]'`.
    """
    from vidfit.videos.decode import av
    from vidfit.videos.extract import Plan
    from vidfit.videos.extract import extract as extract_videos
    from vidfit.videos.sources import check_labelled, find_sources

    av()
    names = {"rgb": image_model, "audio": sound_model}
    settings, extractor, carried, vocabulary = _settings(names, rate), None, None, None
    if like:
        extractor, carried, vocabulary = _like(like)
        settings = extractor.settings
    found = find_sources(sources)
    if not like:
        check_labelled(found, sources, ", or --like")
    splits = {"eval": 1.0} if like and split == _SPLIT else _splits(split)
    sizes = {"rgb": image_bytes, "audio": sound_bytes}
    plan = Plan(found, settings, splits, like=extractor, carried=carried, vocabulary=vocabulary, sizes=sizes)
    with progress_bar() as on_progress:
        made = extract_videos(plan, output, workers, on_progress)
    before = f", {made.resumed:,} of them before" if made.resumed else ""
    failed = f"; {made.failed:,} failed, see {output / 'failed.csv'}" if made.failed else ""
    length = timedelta(seconds=round(made.seconds))
    print(f"{output}: {made.videos:,} videos of {made.labels:,} labels, {length} long{before}{failed}")
    if made.failed:
        raise typer.Exit(3)


@app.command()
def label(
    model: Annotated[
        str, typer.Argument(help="A packed .onnx file, trained on features of `vidfit extract`; or hf://owner/name.")
    ],
    videos: Videos,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .json, .csv or .vtt file. Without it, a table is printed.")
    ] = None,
    window: Window = None,
    hop: Hop = None,
    threshold: Threshold = None,
    overwrite: Overwrite = False,
) -> None:
    """Say what is in videos, and when.

    A .vtt file is for one video; of several it is a folder with a file each. Videos that cannot be read are listed, and
    the exit code is then 3. Needs `pip install 'vidfit[videos]'`.
    """
    from vidfit.inference.label import Labeller
    from vidfit.inference.label_files import check_output, check_suffix, write_labels
    from vidfit.inference.timeline import TimelineOptions
    from vidfit.progress import Progress
    from vidfit.videos.decode import av
    from vidfit.videos.sources import find_sources

    av()
    if output:
        check_suffix(output)
    found = find_sources(videos)
    if output:
        refuse_to_overwrite(output, overwrite, [Path(model), *map(Path, videos), *(source.path for source in found)])
        check_output(output, len(found))
    labelled = []
    with progress_bar() as on_progress:
        on_progress(Progress("labelling", 0, len(found), "videos"))
        labeller = Labeller(model, TimelineOptions(window, hop, threshold))
        for number, source in enumerate(found, start=1):
            labelled.append(labeller.label(source))
            on_progress(Progress("labelling", number, len(found), "videos"))
            if not output and not labelled[-1].error:
                _print_timeline(labelled[-1])
    if output:
        write_labels(output, labelled)
    failed = [video for video in labelled if video.error]
    for video in failed:
        log.warning(video.error)
    if output:
        what = "a folder with one file a video" if output.is_dir() else f"{len(labelled) - len(failed):,} videos"
        print(f"{output}{'/' * output.is_dir()}: {what}" + (f"; {len(failed):,} failed" if failed else ""))
    if failed:
        raise typer.Exit(3)


def _settings(names: dict[str, str], rate: float) -> Any:
    from pydantic import ValidationError

    from vidfit.errors import reason
    from vidfit.videos.backbone import YOUTUBE8M
    from vidfit.videos.backbones import find_backbone
    from vidfit.videos.extractor import Settings

    backbones = [find_backbone(name, modality) for modality, name in names.items() if name != "none"]  # type: ignore[arg-type]
    if not backbones:
        raise VidfitError("--image-model none --sound-model none: nothing is left to extract; leave one out")
    # YouTube-8M's pictures are those at the start of each second.
    picture_time = 0.0 if names["rgb"] == YOUTUBE8M else 0.5
    try:
        return Settings(rate=rate, picture_time=picture_time, backbones=tuple(backbones))
    except ValidationError as error:
        raise VidfitError(f"--rate: {reason(error)}") from error


def _like(path: Path) -> tuple[Any, Any, tuple[str, ...]]:
    """Extractor, carried models if any, and vocabulary of a folder of features or of a packed model."""
    from vidfit.inference.predictor import load
    from vidfit.videos.carried import CarriedModels
    from vidfit.videos.extract import read_vocabulary
    from vidfit.videos.extractor import FILE, parse_extractor, read_extractor

    if path.is_dir():
        return read_extractor(path / FILE), None, read_vocabulary(path)
    predictor = load(path)
    if predictor.extractor is None:
        raise VidfitError(f"--like {path}: does not say how its features were made; give a folder of features")
    carried = CarriedModels(predictor.carried, predictor.spec) if predictor.carried else None
    return parse_extractor(predictor.extractor, path), carried, predictor.vocabulary


def _splits(text: str) -> dict[str, float]:
    shares = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise VidfitError(f"--split {text!r}: give shares such as train=0.8,validation=0.2") from None
    if not all(name in ("train", "validation", "eval") and share >= 0 for name, share in shares.items()):
        raise VidfitError(f"--split {text!r}: names are train, validation and eval, shares are not below 0")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise VidfitError(f"--split {text!r}: the shares add up to {sum(shares.values()):g}, not to 1")
    return shares


def _print_timeline(video: Any) -> None:
    """A table of a video's labels, each with a bar over time."""
    block = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    width = max(20, min(shutil.get_terminal_size().columns - 36, 80))
    print(f"{video.path}  {video.duration:.1f} s" + "".join(f"  ({note})" for note in video.notes))
    for label in video.labels:
        bar = [" "] * width
        for span in label.segments:
            first = int(span.start / max(video.duration, 1e-9) * width)
            last = max(first + 1, round(span.end / max(video.duration, 1e-9) * width))
            bar[first:last] = block * (min(last, width) - first)
        print(f"  {label.label[:24]:<24} {label.probability:>6.1%} |{''.join(bar)}|")
    if not video.labels:
        print("  no label is probable enough; try a lower --threshold")
