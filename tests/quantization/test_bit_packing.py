"""Packed levels: what goes in comes out, in the bytes and places that the docstring of `bit_packing.py` says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidfit.quantization.bit_packing import pack, packed_bytes, unpack


@given(st.integers(2, 8), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_levels_survive(bits: int, elements: int, seed: int):
    levels = torch.from_numpy(np.random.default_rng(seed).integers(2**bits, size=elements, dtype=np.uint8))
    packed = pack(levels, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(elements, bits)
    # A plane is padded to whole bytes, and there are three at most.
    assert 0 <= 8 * len(packed) - elements * bits < 24
    assert torch.equal(unpack(packed, elements, bits), levels)


@pytest.mark.parametrize(
    ("bits", "levels", "packed"),
    [
        (4, [1, 2, 3, 4, 5], [0x41, 0x52, 0x03]),
        (2, [1, 2, 3, 0, 1], [0b01_11_01, 0b00_10]),
        # The plane of the two high bits (3 and 1), then that of the low one (1 and 0).
        (3, [0b111, 0b010], [0b01_11, 0b0_1]),
    ],
)
def test_literal_bytes(bits: int, levels: list[int], packed: list[int]):
    assert pack(torch.tensor(levels, dtype=torch.uint8), bits).tolist() == packed
