"""Uniform 8-bit weights: a tensor's values become 256 levels evenly spaced from its minimum to its maximum.

A quantised tensor is one signed byte a value plus two numbers: `value = code * scale + offset`. That affine form keeps
matmuls on integer kernels, `x @ (s q + m) = s (x @ q) + m sum(x)`; a free codebook (quantiles, k-means) would not.
What it trades away is resolution where most weights lie: one outlier stretches the levels of its whole tensor. Tensors
of at most 17,000 elements stay as they are; together they are a thousandth of a member's bytes.

Everything runs in chunks that fit the cache, in float64: temporaries stay near 1 MB whatever the tensor's size.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vidfit.errors import ModelFileError, reason

LEVELS = 256
MIN_ELEMENTS = 17_000
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
        for chunk in _chunks(flat_codes.numel()):
            flat_values[chunk] = flat_codes[chunk].double().mul_(self.scale).add_(self.offset)
        return values


def quantize_uniform(tensor: Tensor) -> QuantizedTensor:
    """The nearest of 256 levels for every value of a float32 tensor; half-way values take the lower level.

    Raises:
        ValueError: the tensor is not float32, is empty, or holds NaN or infinity.

    Source: the 8-bit export of the 2018 winners' code: levels are a float64 linspace over [min, max].
    """
    if tensor.dtype != torch.float32:
        raise ValueError(f"is {tensor.dtype}; only float32 is quantised")
    if tensor.numel() == 0:
        raise ValueError("is empty, it has no minimum")
    flat = tensor.detach().flatten()
    low, high = (bound.double().item() for bound in flat.aminmax())
    if not torch.isfinite(torch.tensor([low, high])).all():
        raise ValueError("holds NaN or infinity")
    scale = (high - low) / (LEVELS - 1)
    codes = torch.full(tensor.shape, _LOWEST_CODE, dtype=torch.int8, device=tensor.device)
    if scale > 0:
        flat_codes = codes.view(-1)
        for chunk in _chunks(flat.numel()):
            level = flat[chunk].double().sub_(low).div_(scale)
            flat_codes[chunk] = level.sub_(0.5).ceil_().add_(_LOWEST_CODE)
    return QuantizedTensor(codes, scale, low - _LOWEST_CODE * scale)


def quantize_state(state: Mapping[str, Tensor]) -> dict[str, Tensor | QuantizedTensor]:
    """A state dict with its float32 tensors of more than `MIN_ELEMENTS` elements quantised, the rest the same objects.

    Raises:
        ModelFileError: such a tensor holds NaN or infinity; the message names it.
    """
    quantized: dict[str, Tensor | QuantizedTensor] = {}
    for name, tensor in state.items():
        if tensor.dtype != torch.float32 or tensor.numel() <= MIN_ELEMENTS:
            quantized[name] = tensor
            continue
        try:
            quantized[name] = quantize_uniform(tensor)
        except ValueError as error:
            raise ModelFileError(
                f"tensor {name!r} {error}: training diverged; train again with a lower learning rate"
            ) from error
    return quantized


def dequantize_state(state: Mapping[str, Tensor | QuantizedTensor]) -> dict[str, Tensor]:
    """The float32 state dict that `quantize_state`'s result stands for."""
    return {name: value.dequantize() if isinstance(value, QuantizedTensor) else value for name, value in state.items()}


def flatten_state(state: Mapping[str, Tensor | QuantizedTensor]) -> dict[str, Tensor]:
    """The same state as plain tensors, for a safetensors file.

    A quantised tensor `name` becomes `name.codes` (int8), `name.scale` and `name.offset` (float64 `[]`: in float32 the
    rounded offset would move every value).
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, QuantizedTensor):
            plain[f"{name}.codes"] = value.codes
            plain[f"{name}.scale"] = torch.tensor(value.scale, dtype=torch.float64)
            plain[f"{name}.offset"] = torch.tensor(value.offset, dtype=torch.float64)
        else:
            plain[name] = value
    return plain


def unflatten_state(plain: Mapping[str, Tensor]) -> dict[str, Tensor | QuantizedTensor]:
    """The inverse of `flatten_state`; int8 tensors called `*.codes` are quantised ones.

    Raises:
        ModelFileError: codes without their scale or offset; the message names them.
    """
    state: dict[str, Tensor | QuantizedTensor] = dict(plain)
    for key, codes in plain.items():
        name = key.removesuffix(".codes")
        if name == key or codes.dtype != torch.int8:
            continue
        try:
            scale, offset = (plain[f"{name}.{part}"].item() for part in ("scale", "offset"))
        except (KeyError, RuntimeError) as error:
            raise ModelFileError(
                f"tensor {key!r} lacks its scale or offset ({reason(error)}); quantise again"
            ) from error
        for part in ("codes", "scale", "offset"):
            del state[f"{name}.{part}"]
        state[name] = QuantizedTensor(codes, scale, offset)
    return state


def _chunks(elements: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, elements, _CHUNK))
