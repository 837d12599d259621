"""Record framing: round trips, real files, and every way in which a file can be damaged."""

import struct
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidfit.errors import DataError, OutputError
from vidfit.features import tfrecord
from vidfit.features.skipped import Skipped
from vidfit.features.tfrecord import (
    CorruptRecordError,
    count_records,
    masked_crc32c,
    read_records,
    scan_records,
    write_records,
)

RECORDS = [b"first", b"", b"third record"]
STARTS = [0, 12 + 5 + 4, 12 + 5 + 4 + 12 + 0 + 4]  # byte offsets of RECORDS


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard.tfrecord"
    write_records(path, RECORDS)
    return path


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_crc32c_check_value_and_mask():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C (RFC 3720)
    # 0xE3069283 rotated right by 15 is 0x2507C60D.
    assert masked_crc32c(b"123456789") == (0x2507C60D + 0xA282EAD8) % 2**32


def test_a_file_is_laid_out_as_the_format_says(tmp_path: Path):
    write_records(tmp_path / "one", [b"data"])
    length = struct.pack("<Q", 4)
    expected = length + struct.pack("<I", masked_crc32c(length)) + b"data" + struct.pack("<I", masked_crc32c(b"data"))
    assert (tmp_path / "one").read_bytes() == expected


@given(records=st.lists(st.binary(max_size=300), max_size=12))
def test_records_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]):
    path = tmp_path_factory.mktemp("round") / "shard.tfrecord"
    write_records(path, records)
    assert list(read_records(path)) == records


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_cover_a_file_exactly_once(shard: Path, parts: int):
    scanned = [item for part in range(parts) for item in scan_records(shard, part, parts)]
    assert sorted(number for number, _ in scanned) == [0, 1, 2]
    assert all(RECORDS[number] == record for number, record in scanned)


def test_real_shards_have_sound_checksums(data_dir: Path):
    """The authors' own files hold as many records as their description says."""
    eval_shards = sorted((data_dir / "audioset" / "eval").glob("*.tfrecord"))
    assert sum(1 for shard in eval_shards for _ in read_records(shard)) == 10_093


@pytest.mark.parametrize("offset", [STARTS[2] + 12, STARTS[2] + 12 + 11, STARTS[2] + 12 + 12], ids=str)
def test_a_flipped_byte_names_file_record_and_offset(shard: Path, offset: int):
    damage(shard, offset)
    reading = read_records(shard)
    assert [next(reading), next(reading)] == RECORDS[:2]
    with pytest.raises(CorruptRecordError) as caught:
        next(reading)
    assert f"{shard}, record 2 (byte {STARTS[2]})" in str(caught.value)
    assert "--skip-corrupt" in str(caught.value)


def test_records_after_damaged_data_are_still_found(shard: Path):
    damage(shard, STARTS[0] + 12)
    (number, error), *rest = scan_records(shard)
    assert number == 0
    assert isinstance(error, CorruptRecordError)
    assert rest == [(1, RECORDS[1]), (2, RECORDS[2])]


@pytest.mark.parametrize("offset", [0, 7, 8], ids=["length", "top of length", "CRC of length"])
def test_records_after_a_damaged_length_are_found(shard: Path, offset: int):
    damage(shard, STARTS[1] + offset)
    first, (number, error), last = scan_records(shard)
    assert (first, last) == ((0, RECORDS[0]), (2, RECORDS[2]))
    assert number == 1
    assert isinstance(error, CorruptRecordError)
    assert f"record 1 (byte {STARTS[1]})" in str(error)
    assert error.skipped == Skipped(records=1, bytes=STARTS[2] - STARTS[1])
    assert f"{STARTS[2] - STARTS[1]} bytes" in str(error)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_agree_on_what_was_lost(shard: Path, parts: int):
    damage(shard, STARTS[0])
    scanned = dict(item for part in range(parts) for item in scan_records(shard, part, parts))
    assert isinstance(scanned[0], CorruptRecordError)
    assert (scanned[1], scanned[2]) == (RECORDS[1], RECORDS[2])


def test_a_block_of_zeros_costs_the_records_it_touches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tfrecord, "_WINDOW", 64)  # the next record is searched for across several windows
    records = [bytes([number]) * 50 for number in range(20)]
    write_records(tmp_path / "shard", records)
    data = bytearray((tmp_path / "shard").read_bytes())
    data[66 * 3 + 5 : 66 * 9 + 5] = bytes(66 * 6)
    (tmp_path / "shard").write_bytes(data)
    scanned = [item for _, item in scan_records(tmp_path / "shard")]
    (lost,) = (item for item in scanned if isinstance(item, CorruptRecordError))
    assert [item for item in scanned if item is not lost] == records[:3] + records[10:]
    assert lost.skipped == Skipped(records=1, bytes=66 * 7)


@pytest.mark.parametrize("missing", [1, 4, 5, 16, 24, 27])
def test_a_truncated_last_record_is_said_to_be_one(shard: Path, missing: int):
    shard.write_bytes(shard.read_bytes()[:-missing])
    reading = read_records(shard)
    assert [next(reading), next(reading)] == RECORDS[:2]
    with pytest.raises(CorruptRecordError, match=r"record 2 \(byte 37\): the file is cut short"):
        next(reading)


def test_a_huge_length_with_a_right_checksum_is_cut_short_not_allocated(tmp_path: Path):
    length = struct.pack("<Q", 2**62)
    (tmp_path / "huge").write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"data")
    with pytest.raises(CorruptRecordError, match="cut short"):
        list(read_records(tmp_path / "huge"))


@pytest.mark.parametrize("text", ["a", "video,label\nabc,1\nand more lines of text\n"], ids=["short", "long"])
def test_a_text_file_is_no_tfrecord_file(tmp_path: Path, text: str):
    path = tmp_path / "notes.tfrecord"
    path.write_text(text)
    with pytest.raises(DataError, match=r"notes\.tfrecord.*no TFRecord file"):
        list(read_records(path))
    with pytest.raises(DataError) as caught:  # nor is any of it a record to skip, whichever part looks
        list(scan_records(path, part=1, parts=2))
    assert not isinstance(caught.value, CorruptRecordError)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_the_records_of_one_file_are_counted(tmp_path: Path, count: int):
    write_records(tmp_path / "one", [bytes(number) for number in range(count)])
    assert count_records(tmp_path / "one") == count


def test_damaged_files_can_be_counted(shard: Path):
    whole = shard.read_bytes()
    for place in range(len(whole)):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        assert 1 <= count_records(shard) <= 3
        shard.write_bytes(whole[: place + 1])
        assert 1 <= count_records(shard) <= 3


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent\.tfrecord"):
        list(read_records(tmp_path / "absent.tfrecord"))


def test_an_unfinished_file_leaves_nothing(tmp_path: Path):
    def records():
        yield b"first"
        raise DataError("the source failed")

    with pytest.raises(DataError, match="the source failed"):
        write_records(tmp_path / "shard.tfrecord", records())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path: Path):
    with pytest.raises(OutputError, match="absent"):
        write_records(tmp_path / "absent" / "shard.tfrecord", [b"first"])
