"""A state dict whose big tensors are quantised, in memory and as the plain tensors of a safetensors file.

Tensors of at most 17,000 elements stay float32. Together they are a thousandth of a member's bytes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.errors import ModelFileError, reason
from vidfit.quantization.bit_packing import pack, packed_bytes, unpack
from vidfit.quantization.gptq import LayerInputs
from vidfit.quantization.uniform import INT8, QuantizedTensor, QuantScheme, quantize

MIN_ELEMENTS = 17_000

# One scheme for all big tensors, or schemes by name; big tensors without a name stay float32.
Schemes = QuantScheme | Mapping[str, QuantScheme]


def is_big(tensor: Tensor | QuantizedTensor) -> bool:
    """Whether `quantize_state` quantises this tensor: it is float32 and has more than `MIN_ELEMENTS` elements."""
    return isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.numel() > MIN_ELEMENTS


def quantize_state(
    state: Mapping[str, Tensor | QuantizedTensor],
    schemes: Schemes = INT8,
    inputs: Mapping[str, LayerInputs] | None = None,
) -> dict[str, Tensor | QuantizedTensor]:
    """A state with its big tensors quantised. All other tensors are the same objects as before.

    Arguments:
        state: tensors by name. Quantised ones stay as they are.
        schemes: one for all, or schemes by name.
        inputs: samples of the inputs of matrices, by name. GPTQ rounds the matrices that have them.

    Raises:
        ModelFileError: a big tensor holds NaN or infinity or does not fit its scheme. The message names it.
    """
    assert isinstance(schemes, QuantScheme) or all(name in state and is_big(state[name]) for name in schemes)
    quantized = dict(state)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not is_big(tensor):
            continue
        if scheme := schemes if isinstance(schemes, QuantScheme) else schemes.get(name):
            try:
                quantized[name] = quantize(tensor, scheme, (inputs or {}).get(name))
            except ValueError as error:
                raise ModelFileError(f"tensor {name!r} {error}") from error
    return quantized


def dequantize_state(state: Mapping[str, Tensor | QuantizedTensor]) -> dict[str, Tensor]:
    """The inverse of `quantize_state`, up to rounding: all tensors as float32."""
    return {name: value if isinstance(value, Tensor) else value.dequantize() for name, value in state.items()}


def flatten_state(state: Mapping[str, Tensor | QuantizedTensor]) -> dict[str, Tensor]:
    """The state as plain tensors for a safetensors file. A reader also needs `schemes_of` the state.

    A quantised tensor `name` becomes three: `name.codes` (int8, or packed uint8 `[bytes]` below 8 bits), `name.scale`
    and `name.offset`.
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, QuantizedTensor):
            plain |= {
                f"{name}.codes": stored_codes(value),
                f"{name}.scale": value.scale,
                f"{name}.offset": value.offset,
            }
        else:
            plain[name] = value
    return plain


def stored_codes(tensor: QuantizedTensor) -> Tensor:
    """Codes as a file stores them: 8-bit codes unchanged, narrower ones as packed levels that count from 0."""
    if tensor.scheme.bits == 8:
        return tensor.codes
    return pack((tensor.codes - tensor.scheme.lowest).view(torch.uint8), tensor.scheme.bits)


def schemes_of(state: Mapping[str, Tensor | QuantizedTensor]) -> dict[str, str]:
    """Schemes by tensor name, for a file's metadata. `INT8`, the default, is left out."""
    return {
        name: str(value.scheme)
        for name, value in state.items()
        if isinstance(value, QuantizedTensor) and value.scheme != INT8
    }


def unflatten_state(
    plain: Mapping[str, Tensor], schemes: Mapping[str, str], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor | QuantizedTensor]:
    """The inverse of `flatten_state`.

    Arguments:
        plain: what `flatten_state` returned.
        schemes: what `schemes_of` returned.
        shapes: shapes of all tensors of the architecture.

    Raises:
        ModelFileError: a quantised tensor lacks a part, or a part does not fit its scheme. The message names it.
    """
    state: dict[str, Tensor | QuantizedTensor] = dict(plain)
    for key in plain:
        name = key.removesuffix(".codes")
        if name == key:
            continue
        if f"{name}.codebook" in plain:
            raise ModelFileError(f"tensor {name!r} has a codebook, which this version of vidfit does not read")
        missing = [part for part in ("scale", "offset") if f"{name}.{part}" not in plain]
        if missing:
            raise ModelFileError(f"tensor {key!r} lacks its {missing[0]}, {name}.{missing[0]}")
        if name not in shapes:
            raise ModelFileError(f"tensor {key!r} is not in its architecture")
        try:
            scheme = QuantScheme.parse(schemes.get(name, str(INT8)))
        except ValueError as error:
            raise ModelFileError(
                f"tensor {name!r} has the quantisation scheme {schemes[name]!r}, which this version of vidfit does not "
                f"read ({reason(error)})"
            ) from error
        state[name] = _checked(name, plain, scheme, shapes[name])
        for part in ("codes", "scale", "offset"):
            del state[f"{name}.{part}"]
    return state


def _checked(name: str, plain: Mapping[str, Tensor], scheme: QuantScheme, shape: torch.Size) -> QuantizedTensor:
    """A quantised tensor from its parts, after checking their dtypes, shapes and values."""
    packed = (torch.uint8, (packed_bytes(shape.numel(), scheme.bits),))
    numbers = (scheme.scale_dtype, scheme.scale_shape(shape))
    expected = {"codes": (torch.int8, shape) if scheme.bits == 8 else packed, "scale": numbers, "offset": numbers}
    found = {part: plain[f"{name}.{part}"] for part in expected}
    for part, tensor in found.items():
        if (tensor.dtype, tensor.shape) != expected[part] or not tensor.isfinite().all():
            raise ModelFileError(f"tensor '{name}.{part}' does not fit the scheme {scheme}")
    codes = found["codes"]
    if scheme.bits < 8:
        codes = unpack(codes, shape.numel(), scheme.bits).view(torch.int8).add_(scheme.lowest).view(shape)
    return QuantizedTensor(codes, scheme, found["scale"], found["offset"])
