"""A finished packed file, read to be rewritten or passed on: first its content is compared with its checksum."""

from pathlib import Path

import onnx

from vidfit.checksum import is_intact
from vidfit.errors import ModelFileError, reason
from vidfit.export.metadata import CHECKSUM, PackedInfo, read_info


def read_packed_info(path: Path) -> PackedInfo:
    """The metadata of a packed file that is as it was written.

    Raises:
        ModelFileError: it is missing, no packed file, or damaged.
    """
    info = read_info(path)
    if is_intact(path, CHECKSUM) is False:
        raise ModelFileError(
            f"{path}: was changed or cut short (its checksum, vidfit.crc32c, differs); copy it anew or pack it again"
        )
    return info


def read_packed_file(path: Path) -> tuple[onnx.ModelProto, PackedInfo]:
    """The graph and its metadata.

    Raises:
        ModelFileError: as `read_packed_info`.
    """
    info = read_packed_info(path)
    try:
        return onnx.load(path), info
    except Exception as error:  # errors of protobuf and the system share no base class
        raise ModelFileError(f"{path}: not a readable packed file ({reason(error)}); pack it again") from error
