"""TFRecord files without TensorFlow.

A record is `length (u64) | masked CRC32C of length | data | masked CRC32C of data`, little endian. A file is streamed
record by record, so memory holds one record whatever the file's size. The length is trusted only after its CRC and the
file's size agree with it, so a damaged header never allocates anything. A record with damaged data can be passed over;
a damaged length hides where the next record begins, so it ends its file.

Records are counted from 0, in errors too. Compressed files are not read.

Source: the TFRecord format, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c

from vidfit.errors import DataError
from vidfit.files import replacing

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
# Bytes. Of a long record what lies in the buffer is copied twice; the kernel reads ahead by itself.
_BUFFER = 1 << 12


class CorruptRecordError(DataError):
    """One record is damaged; `--skip-corrupt` passes over it."""


def masked_crc32c(data: bytes) -> int:
    """CRC32C rotated right by 15 bits plus a constant, as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


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
        DataError: the file cannot be opened or read.
    """
    path = Path(path)
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            size = os.fstat(file.fileno()).st_size
            number = offset = 0
            while offset < size:
                mine = number % parts == part
                header = file.read(_HEADER.size)
                problem = _header_problem(header, offset, size, number)
                if problem:
                    if mine:
                        yield number, CorruptRecordError(f"{path}, record {number} (byte {offset}): {problem}")
                    return
                length, _ = _HEADER.unpack(header)
                if mine:
                    data = file.read(length)
                    (expected,) = _FOOTER.unpack(file.read(_FOOTER.size))
                    if masked_crc32c(data) == expected:
                        yield number, data
                    else:
                        problem = "its data does not match its CRC32C; copy the file again or use --skip-corrupt"
                        yield number, CorruptRecordError(f"{path}, record {number} (byte {offset}): {problem}")
                else:
                    file.seek(length + _FOOTER.size, os.SEEK_CUR)
                offset += _HEADER.size + length + _FOOTER.size
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


def _header_problem(header: bytes, offset: int, size: int, number: int) -> str | None:
    """What is wrong with the header at `offset` of a file of `size` bytes, or None."""
    truncated = "the file is cut short here; copy it again or use --skip-corrupt to do without its last record"
    if len(header) == _HEADER.size:
        length, expected = _HEADER.unpack(header)
        if masked_crc32c(header[:8]) == expected:
            return truncated if offset + _HEADER.size + length + _FOOTER.size > size else None
    if number == 0:
        return "this is no TFRecord file (the first length does not match its CRC32C); give uncompressed TFRecord files"
    if len(header) < _HEADER.size:
        return truncated
    return (
        "its length does not match its CRC32C, so the rest of the file cannot be found; "
        "copy the file again or use --skip-corrupt to do without the rest"
    )


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
