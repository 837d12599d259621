"""Codes of less than a byte, packed: 2 to 7 bits a value in a flat tensor of bytes.

A width is a sum of planes of 4, 2 and 1 bits, so that no value crosses a byte. A plane of w bits keeps 8 / w values a
byte: byte j has those of values j, j + R, j + 2R ..., lowest bits first, where R is the plane's length. Values that are
packed together lie far apart, so that unpacking is a shift of whole rows, in PyTorch and as operators of an ONNX graph
alike. Planes follow one another, that of the highest bits first.
"""

from typing import Literal

import torch
from torch import Tensor

# Bits -> widths of its planes, that of the highest bits first.
_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def packed_bytes(elements: int, bits: int) -> int:
    """Length of what `pack` returns: each plane is padded to whole bytes."""
    return sum(-(-elements * width // 8) for width in _PLANES[bits])


def pack(levels: Tensor, bits: int) -> Tensor:
    """uint8 levels below `2 ** bits`, any shape -> uint8 `[packed_bytes]`."""
    flat = levels.flatten()
    planes = []
    rest = bits
    for width in _PLANES[bits]:
        rest -= width
        values_a_byte = 8 // width
        digits = (flat >> rest) & (2**width - 1)
        length = -(-len(flat) // values_a_byte)
        rows = torch.nn.functional.pad(digits, (0, values_a_byte * length - len(flat))).view(values_a_byte, length)
        plane = rows[0].clone()
        for number in range(1, values_a_byte):
            plane |= rows[number] << (number * width)
        planes.append(plane)
    return torch.cat(planes)


def unpack(packed: Tensor, elements: int, bits: int) -> Tensor:
    """The inverse of `pack`: uint8 `[packed_bytes]` -> uint8 levels `[elements]`."""
    widths = _PLANES[bits]
    levels, start = None, 0
    for width in widths:
        plane = packed[start : start + -(-elements * width // 8)]
        start += len(plane)
        places = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
        rows = shifted(plane, places[:, None], "RIGHT").flatten()
        # In a graph a slice is a copy, of which all are in memory at once when a file is loaded.
        rows = rows if len(rows) == elements else rows[:elements]
        digits = torch.bitwise_and(rows, torch.tensor(2**width - 1, dtype=torch.uint8, device=packed.device))
        if levels is not None:
            by = torch.tensor(width, dtype=torch.uint8, device=packed.device)
            digits = torch.bitwise_or(shifted(levels, by, "LEFT"), digits)
        levels = digits
    assert levels is not None
    return levels


def shifted(values: Tensor, by: Tensor, direction: Literal["LEFT", "RIGHT"]) -> Tensor:
    """Bytes shifted by so many bits; as one ONNX operator when exporting, where PyTorch would emit signed shifts."""
    if torch.compiler.is_exporting():
        shape = torch.broadcast_shapes(values.shape, by.shape)
        return torch.onnx.ops.symbolic(
            "BitShift", [values, by], {"direction": direction}, dtype=torch.uint8, shape=shape, version=11
        )
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(values, by)
