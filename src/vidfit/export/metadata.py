"""How a packed file describes itself, in its ONNX metadata. `docs/format.md` lists the keys; values are strings."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from vidfit.checksum import BLANK, Mark
from vidfit.features.spec import FeatureSpec

# The entry `vidfit.crc32c` of the metadata up to its value: key and length of the value.
CHECKSUM = Mark(b"\x0a\x0dvidfit.crc32c\x12\x08", at_end=True)


class PackedInfo(BaseModel):
    """The metadata of a packed file. The key of a field is `vidfit.` and its name.

    Attributes:
        format: version of the format; others are refused.
        spec: the modalities that the file reads.
        vocabulary: names of the C labels.
        members: name, family, weight, bits and quantised tensors of each member.
        crc32c: checksum of the file (see `checksum.py`), eight hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, alias_generator=lambda field: f"vidfit.{field}")

    format: Literal["1"]
    spec: Json[FeatureSpec]
    vocabulary: Json[tuple[str, ...]]
    members: Json[list[dict[str, Any]]]
    crc32c: str = Field(pattern=r"^[0-9a-f]{8}$")


def properties(spec: FeatureSpec, vocabulary: Sequence[str], members: list[dict[str, object]]) -> dict[str, str]:
    """The metadata to write, key -> string. The checksum is blank."""
    info = PackedInfo.model_construct(
        format="1", spec=spec, vocabulary=tuple(vocabulary), members=members, crc32c=BLANK
    )
    return info.model_dump(by_alias=True, round_trip=True)


def metadata_bytes(spec: FeatureSpec, vocabulary: Sequence[str]) -> int:
    """Bytes of the metadata in a file without members."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in properties(spec, vocabulary, []).items())
