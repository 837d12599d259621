"""What a program without Python must know of a packed file, as plain JSON values."""

from pathlib import Path
from typing import Any

from vidfit.evaluation.thresholds import DEFAULT
from vidfit.export.metadata import PackedInfo
from vidfit.videos.extractor import parse_extractor


def describe(source: Path, info: PackedInfo) -> dict[str, Any]:
    """Labels, thresholds and modalities of a file; where it carries its extractor, its settings too.

    Arguments:
        source: the file, for errors.
        info: its metadata.

    Raises:
        ModelFileError: its extractor is of another version.
    """
    thresholds_C = info.thresholds_C
    found: dict[str, Any] = {
        "vocabulary": info.vocabulary,
        "thresholds": [DEFAULT] * len(info.vocabulary) if thresholds_C is None else thresholds_C.tolist(),
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
