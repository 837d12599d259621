"""Codes of less than a byte, packed: 2 to 7 bits per value in a flat tensor of bytes.

A code is split into planes of 4, 2 and 1 bits, so that no value crosses a byte. For example, 6 bits are a plane of 4
and a plane of 2. The plane of the highest bits comes first.

A plane of b bits keeps 8 / b values per byte, the first in the lowest bits. With R bytes in the plane, byte j holds
values j, j + R, j + 2R and so on. So unpacking shifts whole rows, in PyTorch and in an ONNX graph alike.
"""

import torch
from torch import Tensor

# Bit width of a code -> bit widths of its planes, the highest bits first.
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def packed_bytes(elements: int, bits: int) -> int:
    """Length of what `pack` returns. Each plane is padded to whole bytes."""
    return sum(-(-elements * plane_bits // 8) for plane_bits in PLANES[bits])


def pack(levels: Tensor, bits: int) -> Tensor:
    """uint8 levels below `2 ** bits`, any shape -> uint8 `[packed_bytes]`."""
    flat = levels.flatten()
    planes = []
    lower_bits = bits
    for plane_bits in PLANES[bits]:
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
    """The inverse of `pack`: uint8 `[packed_bytes]` -> uint8 levels `[elements]`.

    `export/bit_unpacking.py` does the same in a graph.
    """
    levels, start = torch.zeros(elements, dtype=torch.uint8, device=packed.device), 0
    for plane_bits in PLANES[bits]:
        plane = packed[start : start + -(-elements * plane_bits // 8)]
        start += len(plane)
        places = torch.arange(0, 8, plane_bits, dtype=torch.uint8, device=packed.device)
        digits = (plane >> places[:, None]).flatten()[:elements] & (2**plane_bits - 1)
        levels = levels << plane_bits | digits
    return levels
