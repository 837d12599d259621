"""TFRecord files without TensorFlow.

A record is `length (u64) | masked CRC32C of length | data | masked CRC32C of data`, little endian. A file is streamed
record by record, so memory holds one record whatever the file's size. The length is trusted only after its CRC and the
file's size agree with it, so a damaged header never allocates anything. A record with damaged data can be skipped. A
damaged length hides where the next record begins. Reading then resumes at the next place where both checksums of a
record hold. The bytes up to there count as one corrupt record.

Records are counted from 0, in errors too. Compressed files are not read.

Source: the TFRecord format, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from vidfit.errors import DataError
from vidfit.features.skipped import Skipped
from vidfit.files import replacing

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
# Bytes. Of a long record what lies in the buffer is copied twice; the kernel reads ahead by itself.
_BUFFER = 1 << 12
# Bytes searched at a time for the next sound record.
_WINDOW = 1 << 20


class CorruptRecordError(DataError):
    """A record is damaged; `--skip-corrupt` skips it.

    Arguments:
        message: what is wrong, where, and what to do.
        bytes: what the record takes in its file, or all that is lost up to the next sound one.
    """

    def __init__(self, message: str, bytes: int = 0) -> None:
        super().__init__(message)
        self.skipped = Skipped(records=1, bytes=bytes)


def masked_crc32c(data: bytes) -> int:
    """CRC32C rotated right by 15 bits plus a constant, as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record_size(data: bytes) -> int:
    """Bytes that a record takes in its file."""
    return _HEADER.size + len(data) + _FOOTER.size


def read_records(path: str | Path) -> Iterator[bytes]:
    """Streams a file's records.

    Raises:
        DataError: the file cannot be opened, is no TFRecord file, or (CorruptRecordError) a record is damaged.
    """
    for _, record in scan_records(path):
        if isinstance(record, CorruptRecordError):
            raise record
        yield record


def scan_records(path: str | Path, part: int = 0, parts: int = 1) -> Iterator[tuple[int, bytes | CorruptRecordError]]:
    """Streams `(record number, record)` for the records whose number is `part` modulo `parts`.

    In the place of a damaged record comes the error that describes it. The data of other parts is not read.

    Raises:
        DataError: the file cannot be read, or holds no record at all where it is not empty.
    """
    path = Path(path)
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            size = os.fstat(file.fileno()).st_size
            number = offset = 0
            while offset < size:
                mine = number % parts == part
                header = file.read(_HEADER.size)
                taken = _record_size(header, size - offset)
                if taken is None:
                    found = _next_record(file, offset + 1, size)
                    if number == 0 and found is None and not _is_header(header):
                        raise DataError(
                            f"{path}, record 0: this is no TFRecord file (no length matches its CRC32C); give "
                            "uncompressed TFRecord files"
                        )
                    taken = (found or size) - offset
                    file.seek(offset + taken)
                    if mine:
                        yield number, _lost(path, number, offset, taken, found)
                elif mine:
                    data = file.read(taken - _HEADER.size - _FOOTER.size)
                    (expected,) = _FOOTER.unpack(file.read(_FOOTER.size))
                    yield number, data if masked_crc32c(data) == expected else _damaged(path, number, offset, taken)
                else:
                    file.seek(taken - _HEADER.size, os.SEEK_CUR)
                offset += taken
                number += 1
    except (OSError, struct.error) as error:
        raise _unreadable(path, error) from error


def count_records(path: Path) -> int:
    """How many records a file holds. Only headers are read, and trusted: what a damaged one hides is not counted.

    Raises:
        DataError: the file cannot be opened or read.
    """
    size = path.stat().st_size
    records = offset = 0
    try:
        with path.open("rb", buffering=0) as file:
            while offset < size:
                length = int.from_bytes(os.pread(file.fileno(), 8, offset), "little")
                offset += _HEADER.size + length + _FOOTER.size
                records += 1
    except OSError as error:
        raise _unreadable(path, error) from error
    return records


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({error}); check the path and its permissions")


def _is_header(header: bytes) -> bool:
    """Whether these are a length and its checksum."""
    return len(header) == _HEADER.size and masked_crc32c(header[:8]) == _HEADER.unpack(header)[1]


def _record_size(header: bytes, left: int) -> int | None:
    """Bytes of the record with this header; None where it is damaged, or longer than what is left."""
    if not _is_header(header):
        return None
    taken = _HEADER.size + _HEADER.unpack(header)[0] + _FOOTER.size
    return taken if taken <= left else None


def _next_record(file: BinaryIO, start: int, size: int) -> int | None:
    """The first place from `start` on where a whole record with two right checksums begins; None where there is none.

    A length takes 8 bytes, and no record is longer than its file. So most places are ruled out by a length's upper
    bytes, before any checksum.
    """
    upper = (size.bit_length() + 7) // 8
    while start + _HEADER.size + _FOOTER.size <= size:
        file.seek(start)
        window = file.read(_WINDOW + _HEADER.size - 1)
        if len(window) < _HEADER.size:  # the file is being cut
            return None
        values = np.frombuffer(window, np.uint8)
        possible = np.ones(len(window) - _HEADER.size + 1, bool)
        for byte in range(upper, 8):
            possible &= values[byte : byte + len(possible)] == 0
        for place in np.flatnonzero(possible).tolist():
            taken = _record_size(window[place : place + _HEADER.size], size - start - place)
            if taken is not None and _is_sound(file, start + place, taken):
                return start + place
        start += len(possible)
    return None


def _is_sound(file: BinaryIO, start: int, taken: int) -> bool:
    """Whether the data of the record at `start` match their checksum."""
    file.seek(start + _HEADER.size)
    data = file.read(taken - _HEADER.size - _FOOTER.size)
    return file.read(_FOOTER.size) == _FOOTER.pack(masked_crc32c(data))


def _damaged(path: Path, number: int, offset: int, taken: int) -> CorruptRecordError:
    problem = "its data does not match its CRC32C; copy the file again or use --skip-corrupt"
    return CorruptRecordError(f"{path}, record {number} (byte {offset}): {problem}", taken)


def _lost(path: Path, number: int, offset: int, lost: int, found: int | None) -> CorruptRecordError:
    """The error for bytes in which no record begins, up to the one `found` or to the end."""
    if found is None:
        problem = f"the file is cut short or damaged here, and {lost:,} bytes up to its end hold no whole record"
    else:
        problem = f"its length does not match its CRC32C, and {lost:,} bytes up to the next sound record are lost"
    where = f"{path}, record {number} (byte {offset})"
    return CorruptRecordError(f"{where}: {problem}; copy the file again or use --skip-corrupt", lost)


def write_records(path: str | Path, records: Iterable[bytes]) -> None:
    """Writes a file of records; it appears under its name only once it is complete.

    Raises:
        OutputError: the file cannot be written (no such folder, disk full).
    """
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + _FOOTER.pack(masked_crc32c(length)))
            file.write(record)
            file.write(_FOOTER.pack(masked_crc32c(record)))
