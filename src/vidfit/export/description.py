"""What a packed file is, as plain JSON values: for people, and for programs without Python."""

from pathlib import Path
from typing import Any

from vidfit.evaluation.thresholds import DEFAULT
from vidfit.export.metadata import PackedInfo, read_info
from vidfit.videos.extractor import parse_extractor


def describe(source: Path, info: PackedInfo) -> dict[str, Any]:
    """Labels, thresholds and modalities of a file; where it carries its extractor, its settings too.

    Arguments:
        source: the file, for errors.
        info: its metadata.

    Raises:
        ModelFileError: its extractor is of another version.
    """
    found: dict[str, Any] = {
        "vocabulary": info.vocabulary,
        "thresholds": thresholds_of(info),
        "modalities": {modality.name: modality.size for modality in info.spec.modalities},
    }
    if not info.carried:
        return found
    assert info.extractor is not None
    settings = parse_extractor(info.extractor, source).settings
    backbones = {backbone.modality: backbone for backbone in settings.backbones}
    return found | {
        "rate": settings.rate,
        "picture_time": settings.picture_time,
        "picture_size": backbones["rgb"].size if "rgb" in backbones else 0,
        "sound_window": backbones["audio"].window if "audio" in backbones else 0,
    }


def thresholds_of(info: PackedInfo) -> list[float]:
    """From which probability on each label holds."""
    thresholds_C = info.thresholds_C
    return [DEFAULT] * len(info.vocabulary) if thresholds_C is None else thresholds_C.tolist()


def inspect_packed(path: Path) -> dict[str, Any]:
    """What a packed file holds, in short.

    Returns:
        `bytes`; `labels`, how many; `thresholds`, whether they were chosen; `features`, name -> size of a frame;
        `members`, name -> family, mean bits and weight; `videos`, what turns them into features.

    Raises:
        ModelFileError: it is no packed file of this version.
    """
    info = read_info(path)
    return {
        "bytes": path.stat().st_size,
        "labels": len(info.vocabulary),
        "thresholds": f"{DEFAULT} for all" if info.thresholds is None else "one per label",
        "features": {modality.name: modality.size for modality in info.spec.modalities},
        "members": {
            it["name"]: f"({it['family']}, {it['bits']:.1f} bits, weight {it['weight']:.2f})" for it in info.members
        },
        "videos": _reads_videos(path, info),
    }


def _reads_videos(path: Path, info: PackedInfo) -> str:
    if info.extractor is None:
        return "no: how its features were made is unknown"
    settings = parse_extractor(info.extractor, path).settings
    models = " and ".join(backbone.name for backbone in settings.backbones)
    return f"{'holds' if info.carried else 'with'} {models}, {settings.rate:g} steps per second"
