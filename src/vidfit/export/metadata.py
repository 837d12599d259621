"""The ONNX metadata of a packed file: keys and strings. `docs/reference/file-formats.md` specifies them."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from vidfit.checksum import BLANK, Mark
from vidfit.features.spec import FeatureSpec

# The entry `vidfit.crc32c` of ONNX's metadata up to its value: key, length of the value.
CHECKSUM = Mark(b"\x0a\x0dvidfit.crc32c\x12\x08", at_end=True)


class PackedInfo(BaseModel):
    """The metadata as they are read; the key of a field is `vidfit.` and its name.

    Attributes:
        format: of the file; others are refused.
        spec: the modalities that it reads.
        vocabulary: label names, C of them.
        members: name, family, weight, bits and quantised tensors of each.
        crc32c: the file's checksum (see `checksum.py`), eight hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, alias_generator=lambda field: f"vidfit.{field}")

    format: Literal["1"]
    spec: Json[FeatureSpec]
    vocabulary: Json[tuple[str, ...]]
    members: Json[list[dict[str, Any]]]
    crc32c: str = Field(pattern=r"^[0-9a-f]{8}$")


def properties(spec: FeatureSpec, vocabulary: Sequence[str], members: list[dict[str, object]]) -> dict[str, str]:
    """The metadata as they are written, the checksum blank: key -> string."""
    info = PackedInfo.model_construct(
        format="1", spec=spec, vocabulary=tuple(vocabulary), members=members, crc32c=BLANK
    )
    return info.model_dump(by_alias=True, round_trip=True)


def metadata_bytes(spec: FeatureSpec, vocabulary: Sequence[str]) -> int:
    """Bytes of the metadata of a file without members."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in properties(spec, vocabulary, []).items())
