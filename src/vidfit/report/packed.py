"""What the page needs of the packed file itself: bytes of the models that it carries, and thresholds."""

from dataclasses import dataclass
from pathlib import Path

from vidfit.errors import ModelFileError
from vidfit.export.metadata import read_info
from vidfit.export.parts import extractor_bytes


@dataclass(frozen=True)
class PackedDetails:
    """Details of a packed file.

    Attributes:
        extractor_bytes: of the models for `pictures` and `sounds`. Empty in a file without extractor.
        thresholds: from which probability on each label holds. Empty if they were not chosen.
        of_videos: whether it is known how videos become the features that the file reads.
    """

    extractor_bytes: dict[str, int]
    thresholds: dict[str, float]
    of_videos: bool = False


def read_packed(path: Path) -> PackedDetails | None:
    """Details of a packed file. None if it is missing.

    Raises:
        ModelFileError: it cannot be read.
    """
    if not path.is_file():
        return None
    info = read_info(path)
    try:
        thresholds_C = info.thresholds_C
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}; pack it again") from error
    thresholds = {} if thresholds_C is None else dict(zip(info.vocabulary, thresholds_C.tolist(), strict=True))
    return PackedDetails(extractor_bytes(path, info) if info.carried else {}, thresholds, info.extractor is not None)
