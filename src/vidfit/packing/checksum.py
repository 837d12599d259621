"""A packed file's checksum: CRC32C of all its bytes but the checksum's own eight digits, which stand in its metadata.

It tells a file that was damaged or edited from the one that was written; it is no signature, as whoever edits a file
can compute it anew. CRC32C because a file of 1 GB is read at every load: it takes 0.2 s, SHA-256 would take over 1 s.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import google_crc32c

BLANK: Final = "0" * 8
"""What stands in the metadata until the rest of the file is written."""
_CHUNK: Final = 1 << 20
# The entry `vidfit.crc32c` of ONNX's metadata up to its value: key, length of the value.
_ENTRY: Final = b"\x0a\x0dvidfit.crc32c\x12\x08"


def write_checksum(path: Path) -> None:
    """Put the checksum into a finished file, in the place of `BLANK`."""
    with path.open("r+b") as file:
        place = _place(file)
        assert place is not None
        digits = _digits(file, place)
        file.seek(place)
        file.write(digits)


def is_intact(path: Path) -> bool | None:
    """Whether a file is as its checksum says; None where it has none."""
    with path.open("rb") as file:
        place = _place(file)
        if place is None:
            return None
        file.seek(place)
        return file.read(len(BLANK)) == _digits(file, place)


def _place(file: BinaryIO) -> int | None:
    """Where the digits begin. ONNX's metadata follow the weights, so the search from the end is short."""
    if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.rfind(_ENTRY)
    return None if found < 0 else found + len(_ENTRY)


def _digits(file: BinaryIO, place: int) -> bytes:
    crc = 0
    for chunk in _chunks(file, place):
        crc = google_crc32c.extend(crc, chunk)
    return f"{crc:08x}".encode()


def _chunks(file: BinaryIO, place: int) -> Iterator[bytes]:
    """All but the digits. Read, not mapped: mapped pages would count as memory."""
    size = os.fstat(file.fileno()).st_size
    for start, stop in ((0, place), (place + len(BLANK), size)):
        file.seek(start)
        while start < stop:
            chunk = file.read(min(_CHUNK, stop - start))
            start += len(chunk)
            yield chunk
