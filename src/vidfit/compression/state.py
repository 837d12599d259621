"""A state dict whose big tensors are quantised, in memory and as the plain tensors of a safetensors file.

Tensors of at most 17,000 elements stay as they are; together they are a thousandth of a member's bytes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.compression import Codebook
from vidfit.compression.codebook import CodebookTensor, quantize_codebook
from vidfit.compression.quantize import LEVELS, QuantizedTensor, quantize_uniform
from vidfit.errors import ModelFileError, reason

MIN_ELEMENTS = 17_000

Quantized = QuantizedTensor | CodebookTensor

# What stands beside the codes of either kind in a file.
_PARTS = {torch.int8: ("scale", "offset"), torch.uint8: ("codebook",)}


def quantize_state(state: Mapping[str, Tensor], codebook: Codebook = "uniform") -> dict[str, Tensor | Quantized]:
    """A state dict with its float32 tensors of more than `MIN_ELEMENTS` elements quantised, the rest the same objects.

    Raises:
        ModelFileError: such a tensor holds NaN or infinity; the message names it.
    """
    quantized: dict[str, Tensor | Quantized] = {}
    for name, tensor in state.items():
        if tensor.dtype != torch.float32 or tensor.numel() <= MIN_ELEMENTS:
            quantized[name] = tensor
            continue
        try:
            quantized[name] = quantize_uniform(tensor) if codebook == "uniform" else quantize_codebook(tensor, codebook)
        except ValueError as error:
            raise ModelFileError(
                f"tensor {name!r} {error}: training diverged; train again with a lower learning rate"
            ) from error
    return quantized


def dequantize_state(state: Mapping[str, Tensor | Quantized]) -> dict[str, Tensor]:
    """The float32 state dict that `quantize_state`'s result stands for."""
    return {name: value if isinstance(value, Tensor) else value.dequantize() for name, value in state.items()}


def flatten_state(state: Mapping[str, Tensor | Quantized]) -> dict[str, Tensor]:
    """The same state as plain tensors, for a safetensors file.

    A tensor `name` with uniform levels becomes `name.codes` (int8), `name.scale` and `name.offset` (float64 `[]`: in
    float32 the rounded offset would move every value); one with a codebook becomes `name.codes` (uint8) and
    `name.codebook` (float32 `[256]`).
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        match value:
            case QuantizedTensor(codes, scale, offset):
                plain[f"{name}.codes"] = codes
                plain[f"{name}.scale"] = torch.tensor(scale, dtype=torch.float64)
                plain[f"{name}.offset"] = torch.tensor(offset, dtype=torch.float64)
            case CodebookTensor(codes, codebook):
                plain[f"{name}.codes"] = codes
                plain[f"{name}.codebook"] = codebook
            case _:
                plain[name] = value
    return plain


def unflatten_state(plain: Mapping[str, Tensor]) -> dict[str, Tensor | Quantized]:
    """The inverse of `flatten_state`; tensors called `*.codes` are quantised ones, int8 or uint8 by their kind.

    Raises:
        ModelFileError: codes without their scale, offset or codebook, or with one that is none; the message names them.
    """
    state: dict[str, Tensor | Quantized] = dict(plain)
    for key, codes in plain.items():
        name = key.removesuffix(".codes")
        if name == key or codes.dtype not in _PARTS:
            continue
        parts = _PARTS[codes.dtype]
        try:
            tensors = [plain[f"{name}.{part}"] for part in parts]
            if codes.dtype == torch.int8:
                scale, offset = (tensor.item() for tensor in tensors)
                state[name] = QuantizedTensor(codes, scale, offset)
            else:
                state[name] = CodebookTensor(codes, _checked_codebook(name, *tensors))
        except (KeyError, RuntimeError) as error:
            lacking = " or ".join(parts)
            raise ModelFileError(f"tensor {key!r} lacks its {lacking} ({reason(error)}); quantise again") from error
        for part in ("codes", *parts):
            del state[f"{name}.{part}"]
    return state


def _checked_codebook(name: str, tensor: Tensor) -> Tensor:
    sound = tensor.dtype == torch.float32 and tensor.shape == (LEVELS,) and tensor.isfinite().all()
    if not sound or (tensor.diff() < 0).any():
        raise ModelFileError(f"tensor '{name}.codebook' is not {LEVELS} ascending float32 numbers; quantise again")
    return tensor
