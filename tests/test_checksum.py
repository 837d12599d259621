"""A packed file's checksum against a CRC32C computed here, bit by bit."""

from pathlib import Path

import onnx
import pytest

from vidfit.checksum import BLANK, is_intact, write_checksum
from vidfit.export.metadata import CHECKSUM


def crc32c(data: bytes) -> int:
    """By its definition: Castagnoli's polynomial, reflected."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with metadata before and after the checksum, which one of them also names."""
    entries = [("a", "vidfit.crc32c"), ("vidfit.crc32c", BLANK), ("b", "x" * 3000)]
    proto = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=key, value=text) for key, text in entries])
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "model.onnx"


def test_the_checksum_is_that_of_all_other_bytes(model: Path):
    before = model.read_bytes()
    write_checksum(model, CHECKSUM)
    digits = f"{crc32c(before.replace(BLANK.encode(), b'')):08x}"
    assert model.read_bytes() == before.replace(BLANK.encode(), digits.encode())
    assert is_intact(model, CHECKSUM)


def test_every_changed_byte_is_noticed(model: Path):
    write_checksum(model, CHECKSUM)
    whole = model.read_bytes()
    for place in range(0, len(whole), 7):
        model.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert not is_intact(model, CHECKSUM)
    for changed in (whole[:-1], whole + b"\0"):
        model.write_bytes(changed)
        assert is_intact(model, CHECKSUM) is False


@pytest.mark.parametrize("content", [b"", b"hello", b"vidfit.crc32c"])
def test_files_without_one(tmp_path: Path, content: bytes):
    (tmp_path / "other").write_bytes(content)
    assert is_intact(tmp_path / "other", CHECKSUM) is None
