"""Codes of less than a byte, packed: 2 to 7 bits per value in a flat tensor of bytes.

A code is split into planes of 4, 2 and 1 bits, so that no value crosses a byte. For example, 6 bits are a plane of 4
and a plane of 2. The plane of the highest bits comes first.

A plane of b bits keeps 8 / b values per byte, the first in the lowest bits. With R bytes in the plane, byte j holds
values j, j + R, j + 2R and so on. So unpacking shifts whole rows, in PyTorch and in an ONNX graph alike.
"""

from typing import Literal

import torch
from torch import Tensor

# Bit width of a code -> bit widths of its planes, the highest bits first.
_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def packed_bytes(elements: int, bits: int) -> int:
    """Length of what `pack` returns. Each plane is padded to whole bytes."""
    return sum(-(-elements * plane_bits // 8) for plane_bits in _PLANES[bits])


def pack(levels: Tensor, bits: int) -> Tensor:
    """uint8 levels below `2 ** bits`, any shape -> uint8 `[packed_bytes]`."""
    flat = levels.flatten()
    planes = []
    lower_bits = bits
    for plane_bits in _PLANES[bits]:
        lower_bits -= plane_bits
        values_per_byte = 8 // plane_bits
        digits = (flat >> lower_bits) & (2**plane_bits - 1)
        length = -(-len(flat) // values_per_byte)
        padding = values_per_byte * length - len(flat)
        rows = torch.nn.functional.pad(digits, (0, padding)).view(values_per_byte, length)
        plane = rows[0].clone()
        for number in range(1, values_per_byte):
            plane |= rows[number] << (number * plane_bits)
        planes.append(plane)
    return torch.cat(planes)


def unpack(packed: Tensor, elements: int, bits: int) -> Tensor:
    """The inverse of `pack`: uint8 `[packed_bytes]` -> uint8 levels `[elements]`."""
    levels, start = None, 0
    for plane_bits in _PLANES[bits]:
        plane = packed[start : start + -(-elements * plane_bits // 8)]
        start += len(plane)
        places = torch.arange(0, 8, plane_bits, dtype=torch.uint8, device=packed.device)
        rows = shifted(plane, places[:, None], "RIGHT").flatten()
        # In a graph a slice is a copy, and all copies are in memory together while a file is loaded.
        rows = rows if len(rows) == elements else rows[:elements]
        digits = torch.bitwise_and(rows, torch.tensor(2**plane_bits - 1, dtype=torch.uint8, device=packed.device))
        if levels is not None:
            by = torch.tensor(plane_bits, dtype=torch.uint8, device=packed.device)
            digits = torch.bitwise_or(shifted(levels, by, "LEFT"), digits)
        levels = digits
    assert levels is not None
    return levels


def shifted(values: Tensor, by: Tensor, direction: Literal["LEFT", "RIGHT"]) -> Tensor:
    """uint8 values, shifted by `by` bits. An export gets one ONNX BitShift; PyTorch would emit signed shifts."""
    if torch.compiler.is_exporting():
        shape = torch.broadcast_shapes(values.shape, by.shape)
        return torch.onnx.ops.symbolic(
            "BitShift", [values, by], {"direction": direction}, dtype=torch.uint8, shape=shape, version=11
        )
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(values, by)
