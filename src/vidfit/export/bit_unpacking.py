"""Unpack codes of less than a byte in a graph: `quantization/bit_packing.py` in ONNX operators."""

from typing import Literal

import numpy as np

from vidfit.export.graph_writer import Value
from vidfit.quantization.bit_packing import PLANES


def unpack(packed: Value, elements: int, bits: int) -> Value:
    """The inverse of `pack`: uint8 `[packed_bytes]` -> uint8 levels `[elements]`."""
    levels, start = None, 0
    for plane_bits in PLANES[bits]:
        length = -(-elements * plane_bits // 8)
        # In a graph a slice is a copy, and all copies are in memory together while a file is loaded.
        plane = packed if len(PLANES[bits]) == 1 else packed.part(0, start, start + length)
        start += length
        places = np.arange(0, 8, plane_bits, dtype=np.uint8)[:, None]
        digits = _shifted(plane, places, "RIGHT").reshape(-1)
        if length * len(places) > elements:
            digits = digits.part(0, 0, elements)
        digits = digits.graph.add("BitwiseAnd", digits, np.uint8(2**plane_bits - 1))
        if levels is not None:
            digits = digits.graph.add("BitwiseOr", _shifted(levels, np.uint8(plane_bits), "LEFT"), digits)
        levels = digits
    assert levels is not None
    return levels


def as_bytes(levels: Value, bits: int) -> Value:
    """uint8 levels -> int8 codes in the highest bits of a byte."""
    highest = _shifted(levels, np.uint8(8 - bits), "LEFT")
    # Subtract 128 by XOR: all in bytes, with no wider copy of the matrix.
    return highest.graph.add("BitwiseXor", highest, np.uint8(128)).cast(np.int8)


def _shifted(values: Value, by: np.ndarray | np.generic, direction: Literal["LEFT", "RIGHT"]) -> Value:
    return values.graph.add("BitShift", values, by, direction=direction)
