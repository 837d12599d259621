"""A file's own checksum: CRC32C of all bytes but its eight digits, which are in the metadata.

It finds files that were damaged or edited. It is no signature: an attacker can compute it anew. Why CRC32C: every load
and every checkpoint computes it, and 1 GB takes 0.2 s. SHA-256 would take over 1 s.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import google_crc32c

BLANK: Final = "0" * 8
"""What stands in the metadata until the rest of the file is written."""
_CHUNK: Final = 1 << 20


class Mark(NamedTuple):
    """Where a format has the digits."""

    before: bytes
    """What stands right before them."""
    at_end: bool
    """Whether the metadata follow the weights: so a search is short."""


def write_checksum(path: Path, mark: Mark) -> None:
    """Put the checksum into a finished file, in the place of `BLANK`."""
    with path.open("r+b") as file:
        place = _place(file, mark)
        assert place is not None
        digits = _digits(file, place)
        file.seek(place)
        file.write(digits)


def is_intact(path: Path, mark: Mark) -> bool | None:
    """Whether a file is as its checksum says; None where it has none."""
    with path.open("rb") as file:
        place = _place(file, mark)
        if place is None:
            return None
        file.seek(place)
        return file.read(len(BLANK)) == _digits(file, place)


def read_checksum(path: Path, mark: Mark) -> str | None:
    """The checksum that a file carries, eight hexadecimal digits, whether it holds or not. None where it has none."""
    with path.open("rb") as file:
        place = _place(file, mark)
        if place is None:
            return None
        file.seek(place)
        return file.read(len(BLANK)).decode("ascii", "replace")


def _place(file: BinaryIO, mark: Mark) -> int | None:
    """Where the digits begin."""
    if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.rfind(mark.before) if mark.at_end else content.find(mark.before)
    return None if found < 0 else found + len(mark.before)


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
