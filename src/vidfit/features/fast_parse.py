"""Frames of a SequenceExample straight from its bytes, where they lie as every common writer lays them.

A frame-level record keeps one bytes value per frame, wrapped in three messages: `0A n 0A n 0A n` and the bytes. The
lengths n are varints. If all frames of a list are equally long, their headers are equal too. So the list is a matrix
`[T, header + D]` with the same header in every row. One comparison checks that. The other columns are the frames,
without a copy.

Only this layout is read here. Protobuf allows more: other fields, another order, longer varints, a list in two parts.
Its own parser reads these, and reports all errors.

Source: https://protobuf.dev/programming-guides/encoding
"""

import numpy as np

# Tags, all with a length: fields 1 and 2 of their message.
_CONTEXT = _KEY = _ENTRY = _FEATURE = _BYTES_LIST = _VALUE = 0x0A
_FEATURE_LISTS = _FEATURE_LIST = 0x12


class _IrregularError(Exception):
    """The bytes have another layout."""


def regular_frames(data: bytes) -> tuple[bytes, dict[str, np.ndarray]] | None:
    """The feature lists of a record.

    Arguments:
        data: a serialised SequenceExample.

    Returns:
        The record without its feature lists, which protobuf still has to parse, and name -> `[T, D]` uint8. These
        arrays are read-only views of the record; T and D are at least 1. None if the layout is another one: protobuf
        then has to parse all of it, and may find a sound record.
    """
    try:
        _, context_end = _field(data, 0, _CONTEXT)
        place, end = _field(data, context_end, _FEATURE_LISTS)
        _require(end == len(data))
        frames: dict[str, np.ndarray] = {}
        while place < end:
            entry, place = _field(data, place, _ENTRY)
            key, key_end = _field(data, entry, _KEY)
            feature_list, list_end = _field(data, key_end, _FEATURE_LIST)
            name = data[key:key_end].decode()
            _require(list_end == place and name not in frames)
            frames[name] = _matrix(data, feature_list, list_end)
        _require(place == end and len(frames) > 0)
    except (_IrregularError, IndexError, UnicodeDecodeError):
        return None
    return data[:context_end], frames


def context_of(data: bytes) -> bytes:
    """A record without its feature lists where they follow its context to its end; else the whole record."""
    try:
        _, context_end = _field(data, 0, _CONTEXT)
        _, end = _field(data, context_end, _FEATURE_LISTS)
    except (_IrregularError, IndexError):
        return data
    return data[:context_end] if end == len(data) else data


def _matrix(data: bytes, start: int, end: int) -> np.ndarray:
    """`[T, D]` of one feature list."""
    feature, feature_end = _field(data, start, _FEATURE)
    bytes_list, list_end = _field(data, feature, _BYTES_LIST)
    value, value_end = _field(data, bytes_list, _VALUE)
    _require(value < value_end == list_end == feature_end <= end)
    _require((end - start) % (feature_end - start) == 0)
    rows = np.frombuffer(data, np.uint8, end - start, start).reshape(-1, feature_end - start)
    _require(rows[:, : value - start].tobytes() == data[start:value] * len(rows))
    return rows[:, value - start :]


def _field(data: bytes, place: int, tag: int) -> tuple[int, int]:
    """Where the content of the field at `place` starts and ends, which may be after the end of `data`."""
    _require(data[place] == tag)
    length = shift = 0
    while True:
        place += 1
        byte = data[place]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            # The shortest form, and at most the four bytes that any record has.
            _require(shift <= 21 and (byte > 0 or shift == 0))
            return place + 1, place + 1 + length
        shift += 7


def _require(holds: bool) -> None:
    if not holds:
        raise _IrregularError
