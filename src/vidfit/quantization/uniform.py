"""Uniform quantisation: each weight becomes one of 4 to 256 evenly spaced levels, so 2 to 8 bits.

`value = code * scale + offset`. The scale and offset belong to the whole tensor or to one output channel. This form
keeps matmuls on integer kernels: `x @ (s q + m) = s (x @ q) + m sum(x)`. It trades away resolution: one outlier
stretches all levels that share its scale.

By default a weight takes the nearest level. With samples of the layer's inputs, GPTQ picks the levels (`gptq.py`).

Shapes: I inputs (rows of a weight matrix, the first axis), O outputs.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vidfit.quantization.bit_packing import packed_bytes
from vidfit.quantization.gptq import LayerInputs, round_with_gptq

Granularity = Literal["tensor", "channel"]

# Elements that are rounded at a time. Float64 temporaries stay near 1 MB, in the cache.
_CHUNK = 1 << 17
# A smaller scale is off by some percent in half precision.
_SMALLEST_SCALE = 2.0**-20


class QuantScheme(BaseModel):
    """How a tensor is quantised.

    Attributes:
        bits: bit width; there are `2 ** bits` levels.
        granularity: what shares a scale: the whole tensor, or each output channel (the last axes).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Annotated[int, Field(ge=2, le=8)]
    granularity: Granularity = "tensor"

    def __str__(self) -> str:
        """`8` for one scale per tensor, `4/channel` for one per channel."""
        return str(self.bits) if self.granularity == "tensor" else f"{self.bits}/{self.granularity}"

    @classmethod
    def parse(cls, text: str) -> "QuantScheme":
        """The inverse of `str`.

        Raises:
            ValueError: the text is not a scheme.
        """
        bits, _, granularity = text.partition("/")
        scheme = cls.model_validate({"bits": bits, "granularity": granularity or "tensor"})
        if str(scheme) != text:
            raise ValueError(f"{text!r} is not a quantisation scheme; did you mean {scheme}?")
        return scheme

    def scale_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the scales of a tensor of this shape: `[]`, or `[1, O]` for one per channel."""
        return torch.Size(()) if self.granularity == "tensor" else torch.Size((1, matrix_shape(shape)[1]))

    @property
    def scale_dtype(self) -> torch.dtype:
        """float16 per channel. float64 per tensor: a rounded offset would move every value."""
        return torch.float64 if self.granularity == "tensor" else torch.float16

    @property
    def lowest(self) -> int:
        """Code of the lowest level."""
        return -(2 ** (self.bits - 1))


# The method's own: 256 levels between the minimum and maximum of the tensor.
INT8 = QuantScheme(bits=8)


@dataclass(frozen=True)
class QuantizedTensor:
    """A quantised float32 tensor of any shape: `value = code * scale + offset`.

    Attributes:
        codes: int8 in [-2^(bits-1), 2^(bits-1)), in the tensor's shape. The lowest level has the lowest code.
        scheme: bit width and granularity.
        scale: distance between neighbouring levels, 0 for constant values. float64 `[]`, or float16 `[1, O]`.
        offset: value of code 0, in the dtype and shape of the scale.
    """

    codes: Tensor
    scheme: QuantScheme
    scale: Tensor
    offset: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes in a file: packed codes, scales and offsets."""
        return stored_bytes(self.codes.shape, self.scheme)

    def dequantize(self) -> Tensor:
        """The values in float32, each the nearest float32 to its level."""
        values = torch.empty(self.codes.shape, dtype=torch.float32, device=self.codes.device)
        codes_IO, values_IO = as_matrix(self.codes), as_matrix(values)
        scale, offset = self.scale.double(), self.offset.double()
        rows = _rows_at_once(codes_IO)
        for some_values, some_codes in zip(values_IO.split(rows), codes_IO.split(rows), strict=True):
            some_values[:] = some_codes.double().mul_(scale).add_(offset)
        return values


def stored_bytes(shape: torch.Size, scheme: QuantScheme) -> int:
    """Bytes in a file of a tensor of this shape: packed codes, scales and offsets."""
    return (
        packed_bytes(shape.numel(), scheme.bits) + 2 * scheme.scale_shape(shape).numel() * scheme.scale_dtype.itemsize
    )


def quantize(tensor: Tensor, scheme: QuantScheme, inputs: LayerInputs | None = None) -> QuantizedTensor:
    """Quantise a float32 tensor to the nearest levels, or with GPTQ if you give `inputs`.

    Half-way values take the lower level. Scales and offsets are rounded to half precision before levels are chosen.

    Arguments:
        tensor: float32, any shape.
        scheme: bit width and granularity.
        inputs: samples of what the tensor, a matrix `[I, O]`, is multiplied with.

    Raises:
        ValueError: the tensor is not float32, is empty or holds NaN or infinity. Or its values are too large or too
            close together for scales in half precision.

    Source: the 8-bit export of the 2018 winners' code: levels are a float64 linspace over [min, max].
    """
    check_quantizable(tensor)
    weights_IO = as_matrix(tensor.detach())
    low, scale, offset = _levels(weights_IO, scheme)
    if inputs is None:
        level_IO = _nearest(weights_IO, low, scale.double(), scheme.bits)
    else:
        low_1O, scale_1O = torch.atleast_2d(low), torch.atleast_2d(scale.double())
        level_IO = round_with_gptq(weights_IO, low_1O, scale_1O, scheme.bits, inputs)
    codes = level_IO.view(torch.int8).add_(scheme.lowest).view(tensor.shape)
    return QuantizedTensor(codes, scheme, scale, offset)


def _levels(weights_IO: Tensor, scheme: QuantScheme) -> tuple[Tensor, Tensor, Tensor]:
    """Where levels lie: level n is `low + n * scale`. Returns float64 low, and scale and offset as they are stored."""
    if scheme.granularity == "tensor":
        low, high = (bound.double() for bound in weights_IO.aminmax())
    else:
        low, high = (bound.double() for bound in weights_IO.aminmax(dim=0, keepdim=True))
    scale = (high - low) / (2**scheme.bits - 1)
    offset = low - scheme.lowest * scale
    if scheme.granularity == "tensor":
        return low, scale, offset
    half_scale, half_offset = scale.half(), offset.half()
    if not (half_scale.isfinite().all() and half_offset.isfinite().all()):
        raise ValueError("is too large for scales in half precision; use one scale for the tensor")
    if 0 < scale.max() < _SMALLEST_SCALE:
        raise ValueError("is too close to constant for scales in half precision; use one scale for the tensor")
    return half_offset.double() + scheme.lowest * half_scale.double(), half_scale, half_offset


def _nearest(weights_IO: Tensor, low: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Number of the nearest level, uint8 `[I, O]`; the lower one half-way."""
    level_IO = torch.empty(weights_IO.shape, dtype=torch.uint8, device=weights_IO.device)
    # Constant values have scale 0 and take level 0.
    divisor = scale.masked_fill(scale == 0, torch.inf)
    rows = _rows_at_once(weights_IO)
    for levels, weights in zip(level_IO.split(rows), weights_IO.split(rows), strict=True):
        levels[:] = weights.double().sub_(low).div_(divisor).sub_(0.5).ceil_().clamp_(0, 2**bits - 1)
    return level_IO


def check_quantizable(tensor: Tensor) -> None:
    """Raises ValueError if the tensor is not float32, is empty, or holds NaN or infinity."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"is {tensor.dtype}; only float32 can be quantised")
    if tensor.numel() == 0:
        raise ValueError("is empty, so it has no minimum")
    if not torch.stack(tensor.detach().aminmax()).isfinite().all():
        raise ValueError("holds NaN or infinity: training diverged; train again with a lower learning rate")


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """I and O of a tensor of any shape: its first axis, and all other axes together."""
    return (shape[0], shape[1:].numel()) if shape else (1, 1)


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor of any shape as `[I, O]`."""
    return tensor.reshape(matrix_shape(tensor.shape))


def _rows_at_once(matrix: Tensor) -> int:
    return max(1, _CHUNK // matrix.shape[1])
