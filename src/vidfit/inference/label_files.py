"""Labelled videos as a file, in the format of its suffix.

.json  a list; per video `path`, `duration`, `labels`: [{`label`, `probability`, `segments`: [{`start`, `end`,
       `confidence`}]}], seconds; a video that cannot be read has `error`, one that is damaged `notes`
.csv   a row per interval: path,label,start,end,confidence
.vtt   captions for a player: which labels hold; of one video the file, of several a folder of that name with a file
       for each that can be read. Where two have one name, each keeps its folders below the one that holds all, and its
       ending: `b/c.mp4.vtt`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from vidfit.errors import OutputError
from vidfit.files import check_folder_of, check_place, make_folder, replacing, replacing_folder, write_table, write_text
from vidfit.inference.label import LabelledVideo

SUFFIXES: Final = (".json", ".csv", ".vtt")


def write_labels(path: Path, videos: Sequence[LabelledVideo]) -> None:
    """Write the labels of some videos.

    Raises:
        OutputError: the suffix is unknown or the file cannot be written.
    """
    check_suffix(path)
    if path.suffix.lower() == ".vtt":
        _write_captions(path, videos)
    elif path.suffix.lower() == ".csv":
        write_table(path, ["path", "label", "start", "end", "confidence"], _rows(videos))
    else:
        with (
            replacing(path) as partial,
            partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            json.dump([to_object(video) for video in videos], file, indent=1, ensure_ascii=False)
            file.write("\n")


def check_suffix(path: Path) -> None:
    """Raises OutputError where the suffix is no known format."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path}: {path.suffix or 'no suffix'} is no known format; name it {', '.join(SUFFIXES)}")


def check_output(path: Path, videos: int) -> None:
    """Tell before videos are read whether their labels can be written. The suffix is a known one.

    Raises:
        OutputError: nothing can be written there.
    """
    if path.suffix.lower() != ".vtt" or videos == 1:
        check_place(path)
    elif path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is a file, and captions of several videos need a folder; choose another name")
    elif path.exists():
        check_folder_of(path / "any")
    else:
        make_folder(path.parent)
        check_folder_of(path)


def to_object(video: LabelledVideo) -> dict[str, Any]:
    """A video as in the JSON file."""
    labels = [
        {
            "label": label.label,
            "probability": round(label.probability, 6),
            "segments": [
                {"start": round(span.start, 3), "end": round(span.end, 3), "confidence": round(span.confidence, 6)}
                for span in label.segments
            ],
        }
        for label in video.labels
    ]
    told: dict[str, Any] = {"path": video.path, "duration": round(video.duration, 3), "labels": labels}
    if video.notes:
        told["notes"] = video.notes
    if video.error:
        told["error"] = video.error
    return told


def _rows(videos: Iterable[LabelledVideo]) -> Iterable[list[str]]:
    for video in videos:
        for label in video.labels:
            for span in label.segments:
                yield [video.path, label.label, f"{span.start:.3f}", f"{span.end:.3f}", f"{span.confidence:.6f}"]


def _write_captions(path: Path, videos: Sequence[LabelledVideo]) -> None:
    readable = [video for video in videos if not video.error]
    if len(videos) == 1:
        for video in readable:
            write_text(path, _captions(video))
        return
    names = [Path(video.path).stem for video in readable]
    # "A" and "a" are one file on some systems.
    if len({name.casefold() for name in names}) < len(names):
        paths = [os.path.abspath(video.path) for video in readable]
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
        names = [os.path.relpath(path, folder) for path in paths]
    captions = {f"{name}.vtt": _captions(video) for name, video in zip(names, readable, strict=True)}
    if path.is_dir():
        for name, text in captions.items():
            make_folder((path / name).parent)
            write_text(path / name, text)
        return
    with replacing_folder(path) as partial:
        for name, text in captions.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")


def _captions(video: LabelledVideo) -> str:
    """WebVTT: a cue wherever the set of labels changes, so that a player shows all that hold at once."""
    spans = [
        (round(span.start, 3), round(span.end, 3), label.label) for label in video.labels for span in label.segments
    ]
    edges = sorted({edge for start, end, _ in spans for edge in (start, end)})
    text = "WEBVTT\n"
    for start, end in pairwise(edges):
        if held := [label for first, last, label in spans if first <= start and end <= last]:
            text += f"\n{_clock(start)} --> {_clock(end)}\n{_escaped(', '.join(held))}\n"
    return text


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"


def _escaped(text: str) -> str:
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
