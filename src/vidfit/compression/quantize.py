"""Uniform 8-bit weights: a tensor's values become 256 levels evenly spaced from its minimum to its maximum.

A quantised tensor is one signed byte a value plus two numbers: `value = code * scale + offset`. That affine form keeps
matmuls on integer kernels, `x @ (s q + m) = s (x @ q) + m sum(x)`; a free codebook (`codebook.py`) would not.
What it trades away is resolution where most weights lie: one outlier stretches the levels of its whole tensor.

Everything runs in chunks that fit the cache, in float64: temporaries stay near 1 MB whatever the tensor's size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 256
_LOWEST_CODE = -128
_CHUNK = 1 << 16


@dataclass(frozen=True)
class QuantizedTensor:
    """Signed 8-bit codes of a float32 tensor, any shape: `value = code * scale + offset`.

    Attributes:
        codes: int8, the shape of the original; level 0 (the minimum) is -128, level 255 (the maximum) is 127.
        scale: distance between neighbouring levels; 0 for a constant tensor.
        offset: value of code 0, which is level 128.
    """

    codes: Tensor
    scale: float
    offset: float

    def dequantize(self) -> Tensor:
        """The values as float32, each the nearest float32 to its level."""
        values = torch.empty(self.codes.shape, dtype=torch.float32, device=self.codes.device)
        flat_codes, flat_values = self.codes.flatten(), values.view(-1)
        for chunk in chunks(flat_codes.numel()):
            flat_values[chunk] = flat_codes[chunk].double().mul_(self.scale).add_(self.offset)
        return values


def quantize_uniform(tensor: Tensor) -> QuantizedTensor:
    """The nearest of 256 levels for every value of a float32 tensor; half-way values take the lower level.

    Raises:
        ValueError: the tensor is not float32, is empty, or holds NaN or infinity.

    Source: the 8-bit export of the 2018 winners' code: levels are a float64 linspace over [min, max].
    """
    low, high = finite_range(tensor)
    scale = (high - low) / (LEVELS - 1)
    codes = torch.full(tensor.shape, _LOWEST_CODE, dtype=torch.int8, device=tensor.device)
    if scale > 0:
        flat, flat_codes = tensor.detach().flatten(), codes.view(-1)
        for chunk in chunks(flat.numel()):
            level = flat[chunk].double().sub_(low).div_(scale)
            flat_codes[chunk] = level.sub_(0.5).ceil_().add_(_LOWEST_CODE)
    return QuantizedTensor(codes, scale, low - _LOWEST_CODE * scale)


def finite_range(tensor: Tensor) -> tuple[float, float]:
    """Minimum and maximum of a tensor that can be quantised.

    Raises:
        ValueError: the tensor is not float32, is empty, or holds NaN or infinity.
    """
    if tensor.dtype != torch.float32:
        raise ValueError(f"is {tensor.dtype}; only float32 is quantised")
    if tensor.numel() == 0:
        raise ValueError("is empty, it has no minimum")
    low, high = (bound.double().item() for bound in tensor.detach().flatten().aminmax())
    if not torch.isfinite(torch.tensor([low, high])).all():
        raise ValueError("holds NaN or infinity")
    return low, high


def chunks(elements: int) -> Iterator[slice]:
    """Slices that cover so many elements in order, each small enough for the cache."""
    return (slice(start, start + _CHUNK) for start in range(0, elements, _CHUNK))
