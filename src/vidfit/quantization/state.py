"""A state dict whose big tensors are quantised, in memory and as the plain tensors of a safetensors file.

Tensors of at most 17,000 elements stay as they are; together they are a thousandth of a member's bytes.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vidfit.errors import ModelFileError, reason
from vidfit.quantization.bit_packing import pack, packed_bytes, unpack
from vidfit.quantization.codebook import LEVELS, CodebookTensor, quantize_codebook
from vidfit.quantization.gptq import Moments
from vidfit.quantization.uniform import REFERENCE, Grid, QuantizedTensor, quantize

MIN_ELEMENTS = 17_000

Quantized = QuantizedTensor | CodebookTensor

# A grid for all big float32 tensors, grids by name for some of them (the others stay so), or the method of a codebook.
Form = Grid | Mapping[str, Grid] | Literal["quantile", "kmeans"]


def is_big(tensor: Tensor | Quantized) -> bool:
    """Whether a tensor of a state is one that is quantised: float32 still, and large enough."""
    return isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.numel() > MIN_ELEMENTS


def quantize_state(
    state: Mapping[str, Tensor | Quantized], form: Form = REFERENCE, moments: Mapping[str, Moments] | None = None
) -> dict[str, Tensor | Quantized]:
    """A state with its float32 tensors of more than `MIN_ELEMENTS` elements quantised, the rest the same objects.

    Arguments:
        state: tensors by name; those that are quantised already stay as they are.
        form: what to make of them.
        moments: of the inputs of matrices by name; those that have them are rounded with compensation.

    Raises:
        ModelFileError: such a tensor holds NaN or infinity or does not fit its grid; the message names it.
    """
    assert not isinstance(form, Mapping) or all(name in state and is_big(state[name]) for name in form)
    quantized = dict(state)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not is_big(tensor):
            continue
        try:
            if isinstance(form, str):
                quantized[name] = quantize_codebook(tensor, form)
            elif grid := form if isinstance(form, Grid) else form.get(name):
                quantized[name] = quantize(tensor, grid, (moments or {}).get(name))
        except ValueError as error:
            raise ModelFileError(f"tensor {name!r} {error}") from error
    return quantized


def dequantize_state(state: Mapping[str, Tensor | Quantized]) -> dict[str, Tensor]:
    """The float32 state dict that `quantize_state`'s result stands for."""
    return {name: value if isinstance(value, Tensor) else value.dequantize() for name, value in state.items()}


def flatten_state(state: Mapping[str, Tensor | Quantized]) -> dict[str, Tensor]:
    """The same state as plain tensors, for a safetensors file; `grids_of` is what a reader needs beside them.

    A tensor `name` with a grid becomes `name.codes` (int8; with less than 8 bits packed, uint8 `[bytes]`), `name.scale`
    and, unless it is symmetric, `name.offset`; one with a codebook becomes `name.codes` (uint8) and `name.codebook`
    (float32 `[256]`).
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        match value:
            case QuantizedTensor(scale=scale, offset=offset):
                plain[f"{name}.codes"] = stored_codes(value)
                plain[f"{name}.scale"] = scale
                if offset is not None:
                    plain[f"{name}.offset"] = offset
            case CodebookTensor(codes, codebook):
                plain[f"{name}.codes"] = codes
                plain[f"{name}.codebook"] = codebook
            case _:
                plain[name] = value
    return plain


def stored_codes(tensor: Quantized) -> Tensor:
    """Codes as they are stored: one byte each as they are, less as levels counted from the lowest, packed."""
    if isinstance(tensor, CodebookTensor) or tensor.grid.bits == 8:
        return tensor.codes
    return pack((tensor.codes - tensor.grid.lowest).view(torch.uint8), tensor.grid.bits)


def grids_of(state: Mapping[str, Tensor | Quantized]) -> dict[str, str]:
    """The grids by name that a file has to tell: all but the reference's 8 bits a tensor."""
    return {
        name: str(value.grid)
        for name, value in state.items()
        if isinstance(value, QuantizedTensor) and value.grid != REFERENCE
    }


def unflatten_state(
    plain: Mapping[str, Tensor], grids: Mapping[str, str], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor | Quantized]:
    """The inverse of `flatten_state`; tensors called `*.codes` are quantised ones.

    Arguments:
        plain: what `flatten_state` returned.
        grids: what `grids_of` returned.
        shapes: of all tensors of the architecture.

    Raises:
        ModelFileError: codes without their scale, offset or codebook, or with one that is none, or of another size than
            grid and shape ask for; the message names them.
    """
    state: dict[str, Tensor | Quantized] = dict(plain)
    for key, codes in plain.items():
        name = key.removesuffix(".codes")
        if name == key:
            continue
        uniform = name in grids or codes.dtype == torch.int8
        parts = ("scale", "offset") if uniform else ("codebook",)
        try:
            if uniform:
                grid = Grid.parse(grids.get(name, str(REFERENCE)))
                parts = parts[:1] if grid.symmetric else parts
                state[name] = _uniform(name, plain, grid, shapes[name])
            else:
                state[name] = CodebookTensor(codes, _checked_codebook(name, plain[f"{name}.codebook"]))
        except (KeyError, ValueError) as error:
            lacking = " or ".join(parts)
            raise ModelFileError(f"tensor {key!r} lacks its {lacking} ({reason(error)}); quantise again") from error
        for part in ("codes", *parts):
            del state[f"{name}.{part}"]
    return state


def _uniform(name: str, plain: Mapping[str, Tensor], grid: Grid, shape: torch.Size) -> QuantizedTensor:
    """The parts of a tensor with a grid, checked."""
    stored = (torch.int8, shape) if grid.bits == 8 else (torch.uint8, (packed_bytes(shape.numel(), grid.bits),))
    numbers = (grid.scale_dtype, grid.scale_shape(shape))
    expected = {"codes": stored, "scale": numbers} | ({} if grid.symmetric else {"offset": numbers})
    found = {part: plain[f"{name}.{part}"] for part in expected}
    for part, tensor in found.items():
        if (tensor.dtype, tensor.shape) != expected[part] or not tensor.isfinite().all():
            raise ModelFileError(f"tensor '{name}.{part}' is not what {grid} asks for; quantise again")
    codes = found["codes"]
    if grid.bits < 8:
        codes = unpack(codes, shape.numel(), grid.bits).view(torch.int8).add_(grid.lowest).view(shape)
    return QuantizedTensor(codes, grid, found["scale"], found.get("offset"))


def _checked_codebook(name: str, tensor: Tensor) -> Tensor:
    sound = tensor.dtype == torch.float32 and tensor.shape == (LEVELS,) and tensor.isfinite().all()
    if not sound or (tensor.diff() < 0).any():
        raise ModelFileError(f"tensor '{name}.codebook' is not {LEVELS} ascending float32 numbers; quantise again")
    return tensor
