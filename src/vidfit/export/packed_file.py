"""A finished packed file, read as a graph to be rewritten."""

from pathlib import Path

import onnx

from vidfit.checksum import is_intact
from vidfit.errors import ModelFileError, reason
from vidfit.export.metadata import CHECKSUM, PackedInfo, parse_metadata


def read_packed_file(path: Path) -> tuple[onnx.ModelProto, PackedInfo]:
    """The graph and its metadata.

    Raises:
        ModelFileError: it is no packed file, or damaged.
    """
    try:
        if is_intact(path, CHECKSUM) is False:
            raise ValueError("its content is not what its checksum says")
        model = onnx.load(path)
    except Exception as error:  # errors of protobuf and the system share no base class
        raise ModelFileError(
            f"{path}: not a readable packed file ({reason(error)}); pack it again or copy it anew"
        ) from error
    return model, parse_metadata(path, {entry.key: entry.value for entry in model.metadata_props})
