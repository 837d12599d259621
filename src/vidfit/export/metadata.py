"""The metadata of a packed file, a string for each key of ONNX's metadata (docs/reference/file-formats.md)."""

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, Json

from vidfit.checksum import BLANK, Mark
from vidfit.errors import ModelFileError, reason
from vidfit.evaluation.thresholds import decode, not_chosen
from vidfit.features.spec import FeatureSpec

# The entry `vidfit.crc32c` of the metadata up to its value: key and length of the value.
CHECKSUM = Mark(b"\x0a\x0dvidfit.crc32c\x12\x08", at_end=True)
FORMAT: Final = "1"
# The metadata as a file of its own, beside what `vidfit export` writes.
METADATA: Final = "vidfit.json"

# ONNX's field numbers: of a model, of an operator set, of a metadata entry.
_GRAPH, _OPSETS, _METADATA = 7, 8, 14
_DOMAIN, _VERSION = 1, 2
_KEY, _VALUE = 1, 2


class PackedInfo(BaseModel):
    """The metadata of a packed file. The key of a field is `vidfit.` and its name.

    Attributes:
        format: version of the format; others are refused.
        spec: the modalities that the file reads.
        vocabulary: names of the C labels.
        members: name, family, weight, bits and quantised tensors of each member.
        extractor: JSON of how videos become these features (`videos/extractor.py`). Absent where that is unknown.
            Without transforms in a file that carries them.
        carried: modality -> `{"bits"}` of the models for pictures and sounds that are in the file. Absent if none is.
        frame_probabilities: whether the file has this output besides `probabilities`. False if the key is missing.
        thresholds: from which probability on each label holds (see `evaluation/thresholds.py`). Absent in older files.
        crc32c: checksum of the file (see `checksum.py`), eight hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, alias_generator=lambda field: f"vidfit.{field}")

    format: Literal["1"]
    spec: Json[FeatureSpec]
    vocabulary: Json[tuple[str, ...]]
    members: Json[list[dict[str, Any]]]
    extractor: str | None = None
    carried: Json[dict[str, dict[str, int]]] | None = None
    frame_probabilities: Json[bool] = False
    thresholds: str | None = None
    crc32c: str = Field(pattern=r"^[0-9a-f]{8}$")

    @property
    def thresholds_C(self) -> np.ndarray | None:
        """float32 `[C]`. None if the file has none that were chosen.

        Raises:
            ValueError: the entry is not what it should be.
        """
        if self.thresholds is None:
            return None
        try:
            return decode(self.thresholds, len(self.vocabulary))
        except ValueError as error:
            raise ValueError(f"vidfit.thresholds: {error}") from error


class Header(NamedTuple):
    """What an ONNX file holds beside its graph."""

    opset: int
    """Version of ONNX's standard operators; 0 where the file has none."""
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of an ONNX file. The graph, which holds the weights, is skipped.

    Raises:
        ModelFileError: the file is missing, cut short or no ONNX file.
    """
    try:
        with path.open("rb") as file:
            found = list(_fields(file, path.stat().st_size, {_OPSETS, _METADATA}))
        if _GRAPH not in (number for number, _ in found):
            raise ValueError("it has no graph")
        opsets = [dict(_fields(io.BytesIO(it), len(it))) for number, it in found if number == _OPSETS]
        entries = [dict(_fields(io.BytesIO(it), len(it))) for number, it in found if number == _METADATA]
        return Header(
            opset=next((opset.get(_VERSION, 0) for opset in opsets if not opset.get(_DOMAIN)), 0),
            metadata={entry.get(_KEY, b"").decode(): entry.get(_VALUE, b"").decode() for entry in entries},
        )
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); give a packed .onnx file") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelFileError(
            f"{path}: cut short, or no ONNX file ({reason(error)}); copy it anew or pack it again"
        ) from error


def read_info(path: Path) -> PackedInfo:
    """The metadata of a packed file, checked. Its content is not compared with its checksum.

    Raises:
        ModelFileError: as `read_header` and `parse_metadata`.
    """
    return parse_metadata(path, read_header(path).metadata)


def parse_metadata(path: Path, metadata: dict[str, str]) -> PackedInfo:
    """The metadata of a packed file, checked.

    Raises:
        ModelFileError: the file is not vidfit's, of a newer vidfit, or an entry is missing or wrong.
    """
    if not any(key.startswith("vidfit.") for key in metadata):
        raise ModelFileError(
            f"{path}: not a vidfit file: it has no vidfit.* metadata; give one that `vidfit pack` or `vidfit run` wrote"
        )
    found = metadata.get("vidfit.format", FORMAT)
    if re.fullmatch(r"\d{1,9}", found, re.ASCII) and int(found) > int(FORMAT):
        raise ModelFileError(
            f"{path}: a packed file of a newer vidfit (format {found}; this one reads {FORMAT}); "
            "install a newer vidfit, or pack it again with this one"
        )
    try:
        return PackedInfo.model_validate(metadata)
    except ValueError as error:
        raise ModelFileError(f"{path}: not a readable packed file ({reason(error)}); pack it again") from error


def properties(
    spec: FeatureSpec,
    vocabulary: Sequence[str],
    members: list[dict[str, object]],
    extractor: str | None,
    frame_probabilities: bool,
    carried: Mapping[str, dict[str, int]] | None = None,
) -> dict[str, str]:
    """The metadata to write, key -> string, with a blank checksum and room for thresholds."""
    info = PackedInfo.model_construct(
        format=FORMAT,
        spec=spec,
        vocabulary=tuple(vocabulary),
        members=members,
        extractor=extractor,
        carried=carried,
        frame_probabilities=frame_probabilities,
        thresholds=not_chosen(len(vocabulary)),
        crc32c=BLANK,
    )
    return info.model_dump(by_alias=True, round_trip=True, exclude_none=True)


def output_names(frame_probabilities: bool) -> list[str]:
    """The outputs of a packed file, in their order."""
    return ["probabilities", "frame_probabilities"] if frame_probabilities else ["probabilities"]


def metadata_bytes(
    spec: FeatureSpec,
    vocabulary: Sequence[str],
    extractor: str | None = None,
    carried: Mapping[str, dict[str, int]] | None = None,
) -> int:
    """Bytes of the metadata in a file without members."""
    written = properties(spec, vocabulary, [], extractor, False, carried)
    return sum(len(key.encode()) + len(value.encode()) for key, value in written.items())


def _fields(file: BinaryIO, size: int, wanted: Collection[int] | None = None) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: number and value. The value is an int, or bytes.

    Arguments:
        wanted: fields whose bytes are read; others are skipped, and their value is None. All where it is None.

    Raises:
        ValueError: this is no protobuf message, or it is cut short.
    """
    while file.tell() < size:
        number, kind = divmod(_varint(file), 8)
        if kind == 0:
            yield number, _varint(file)
            continue
        length = {1: 8, 5: 4}.get(kind) or (_varint(file) if kind == 2 else -1)
        if number == 0 or not 0 <= length <= size - file.tell():
            raise ValueError("a field ends beyond the end of the file")
        if wanted is None or number in wanted:
            yield number, file.read(length)
        else:
            file.seek(length, io.SEEK_CUR)
            yield number, None


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        (byte,) = file.read(1) or (None,)
        if byte is None:
            raise ValueError("it ends within a number")
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("a number is longer than 64 bits")
