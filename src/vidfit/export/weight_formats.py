"""How a quantised weight is stored in a graph, and how activations are multiplied with it.

The product `x @ W` runs on the stored codes. Scales and offsets become a rank-1 correction:
`x @ (q s + m) = s (x @ q) + m sum(x)`. The weight is never expanded. A row's result does not depend on its batch; with
`NBitsWeight` it does, slightly.

- `Int8Weight`: 8-bit weights, and any bit width if inputs are few. ONNX's `MatMulInteger`. Each row of activations gets
  128 levels between its own minimum and maximum; docs/evidence/performance.md has the cost in GAP. In heads and gates a
  second row holds the remainders. There is little work there, and 14 bits are as good as a float.
- `NBitsWeight`: 2, 4 and 6 bits with many inputs (long descriptors). ONNX Runtime's `MatMulNBits`, which also makes
  bytes of activations, by blocks of inputs. For many rows it takes two to ten times as long as `MatMulInteger`. But a
  hidden layer of bytes would be twice as large in memory as in the file.
- `PackedWeight`: everything else. Expanded at each run. DequantizeLinear comes first: without it, ONNX Runtime would
  fold the weight into a float matrix when it loads the file.

Why activations have 7 bits: without VNNI, ONNX Runtime adds two products of bytes in 16 bits, and they saturate
silently. Two products of 128 * 128 fit. Why they are unsigned: there is no fast kernel for signed activations.

Shapes: M rows, I inputs, O outputs, N blocks, S inputs of a block.
"""

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit.quantization.bit_packing import shifted, unpack
from vidfit.quantization.state import stored_codes
from vidfit.quantization.uniform import QuantizedTensor, as_matrix

OPSET = 23
# A matrix with at most this many inputs is small: it multiplies remainders too, and its codes become bytes.
FEW_INPUTS = 8192
_LEVELS = 128
# The accuracy_level of MatMulNBits that makes bytes of activations.
_BYTE_ACTIVATIONS = 4
# Bit width of a weight -> bit widths of the parts that MatMulNBits multiplies, the highest bits first.
_NBITS_PARTS = {2: (2,), 4: (4,), 6: (4, 2)}


class InParts(Protocol):
    """Float rows `[M, I]` that are not one tensor: what `Int8Weight.multiply` with one term needs of its values."""

    def amin(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor: ...
    def amax(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor: ...
    def sum(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor: ...
    def quantised(self, step: Tensor, dtype: torch.dtype, zero: Tensor) -> Tensor: ...


class AffineWeight(nn.Module):
    """Base of the formats that multiply codes: `W = codes * scale + offset`, one scale per tensor or per output.

    Arguments:
        tensor: `[I, O]`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__()
        self.shape = tensor.codes.shape
        for name, numbers in _numbers(tensor).items():
            self.register_buffer(name, numbers.flatten())

    def affine(self, factor_O: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """float32 scale, a number or `[O]`, and offset `[O]` of `W * factor`."""
        scale, offset_O = self.scale.float(), self.offset.float().expand(self.shape[1])
        return (scale, offset_O) if factor_O is None else (scale * factor_O, offset_O * factor_O)


class Int8Weight(AffineWeight):
    """One byte per code. Narrower codes are packed in the file and become bytes when it is loaded."""

    stored: Tensor
    sums_O: Tensor

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__(tensor)
        self.scheme = tensor.scheme
        self.register_buffer("stored", stored_codes(tensor))
        # Narrower codes go to the highest bits of a byte.
        self.raised = 2 ** (8 - tensor.scheme.bits)
        self.register_buffer("sums_O", tensor.codes.sum(0, dtype=torch.int32) * self.raised)

    def codes(self) -> Tensor:
        """int8 `[I, O]`. Unpacking reads only constants, so ONNX Runtime does it once, when it loads a file."""
        if self.scheme.bits == 8:
            return self.stored
        levels_IO = unpack(self.stored, self.shape.numel(), self.scheme.bits).view(self.shape)
        highest_IO = shifted(levels_IO, torch.tensor(8 - self.scheme.bits, dtype=torch.uint8), "LEFT")
        # Subtract 128 by XOR: all in bytes, with no wider copy of the matrix.
        return torch.bitwise_xor(highest_IO, torch.tensor(128, dtype=torch.uint8)).to(torch.int8)

    def affine(self, factor_O: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As in the base class; the scale belongs to `codes`."""
        scale, offset_O = super().affine(factor_O)
        return scale / self.raised, offset_O

    def expand(self) -> Tensor:
        """The weights, float32 `[I, O]`, expanded once when a file is loaded. For small ones, such as centres."""
        scale, offset_O = self.affine()
        return self.codes().float() * scale + offset_O

    @staticmethod
    def fits(tensor: QuantizedTensor) -> bool:
        """Whether all sums of products fit 32 bits. One outlier among 10^5 inputs can make them overflow."""
        largest = max(tensor.codes.clamp(min=0).sum(0).max(), -tensor.codes.clamp(max=0).sum(0).min())
        return _LEVELS * int(largest) * 2 ** (8 - tensor.scheme.bits) < 2**31

    def multiply(
        self, values_MI: Tensor | InParts, terms: int, factor_O: Tensor | None = None, biases_O: Tensor | None = None
    ) -> Tensor:
        """float32 `[M, I]` -> `values @ W * factor + biases`, `[M, O]`.

        With 2 terms the remainders of activations are multiplied too.
        """
        sums_MO, columns_M1, rows_O = self.uncorrected(values_MI, terms, factor_O)
        # No matmul: ONNX Runtime would fuse it with the sum, and add up a single row in another order.
        for column_M1, row_O in zip(columns_M1, rows_O, strict=True):
            sums_MO = sums_MO + column_M1 * row_O
        return sums_MO if biases_O is None else sums_MO + biases_O

    def multiply_frames(
        self, frames_NI: Tensor, factor_O: Tensor | None = None, biases_O: Tensor | None = None
    ) -> Tensor:
        """As `multiply` with one term, but faster for many rows. A single row may differ slightly."""
        products_NO, columns_N1, rows_O = self.uncorrected(frames_NI, 1, factor_O)
        left_NR, right_RO = side_by_side(columns_N1, rows_O, biases_O)
        return products_NO + left_NR @ right_RO

    def uncorrected(
        self, values_MI: Tensor | InParts, terms: int, factor_O: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The product before its correction, `[M, O]`, and the columns `[M, 1]` and rows `[O]` to correct it with."""
        low_M1 = values_MI.amin(1, keepdim=True).clamp_max(0)
        step_M1 = ((values_MI.amax(1, keepdim=True).clamp_min(0) - low_M1) / (_LEVELS - 1)).clamp_min(1e-30)
        zero_M1 = (-low_M1 / step_M1).round()
        bytes_MI = quantised(values_MI, step_M1, torch.uint8, zero_M1)
        if terms == 1:
            products_MO = self._dot(bytes_MI)
        else:
            assert isinstance(values_MI, Tensor)
            middle, finer = _LEVELS // 2, _LEVELS - 2
            rest_MI = values_MI - (bytes_MI.float() - zero_M1) * step_M1
            rest_MI = quantised(rest_MI, step_M1 / finer, torch.uint8, torch.full_like(step_M1, middle))
            # Side by side, so that the codes are read once.
            both_2MO = self._dot(torch.cat([bytes_MI, rest_MI])).unflatten(0, (2, values_MI.shape[0]))
            products_MO = both_2MO[0] + both_2MO[1] / finer
            zero_M1 = zero_M1 + middle / finer
        scale, offset_O = self.affine(factor_O)
        # Zero points and offsets together: x @ (q s + m) = step s (bytes @ q) - (zero step) (s sum(q)) + sum(x) m.
        columns_M1 = [-zero_M1 * step_M1, values_MI.sum(1, keepdim=True)]
        return products_MO * (step_M1 * scale), columns_M1, [self.sums_O.float() * scale, offset_O]

    def _dot(self, bytes_MI: Tensor) -> Tensor:
        """`bytes @ codes`, float32 `[M, O]`."""
        return dot(bytes_MI, self.codes()).float()


def side_by_side(columns_M1: list[Tensor], rows_O: list[Tensor], biases_O: Tensor | None) -> tuple[Tensor, Tensor]:
    """Corrections and biases as the two factors of one matmul: `[M, R]` and `[R, O]`."""
    if biases_O is not None:
        columns_M1, rows_O = [*columns_M1, torch.ones_like(columns_M1[0])], [*rows_O, biases_O]
    return torch.cat(columns_M1, dim=1), torch.stack(rows_O)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """uint8 `[..., M, I]` and int8 `[..., I, O]` -> int32 `[..., M, O]`."""
    return torch.onnx.ops.symbolic(
        "MatMulInteger", [left, right], dtype=torch.int32, shape=(*left.shape[:-1], right.shape[-1]), version=OPSET
    )


def quantised(values: Tensor | InParts, step: Tensor, dtype: torch.dtype, zero: Tensor | None = None) -> Tensor:
    """QuantizeLinear: values in steps, rounded to the nearest integer, plus the zero point, clipped to `dtype`.

    Arguments:
        values: float32 `[..., I]`.
        step: one number, or one per row, `[..., 1]`.
        dtype: uint8 or int8.
        zero: integers in the shape of `step`; None means zeros.
    """
    zero = torch.zeros_like(step) if zero is None else zero
    if not isinstance(values, Tensor):
        return values.quantised(step, dtype, zero)
    # A row is one block along the last axis. Steps along the first axis take ONNX Runtime twice as long.
    rows: dict[str, Any] = {"axis": -1, "block_size": values.shape[-1]} if step.dim() else {}
    return torch.onnx.ops.symbolic(
        "QuantizeLinear", [values, step, zero.to(dtype)], rows, dtype=dtype, shape=values.shape, version=OPSET
    )


class NBitsWeight(AffineWeight):
    """2, 4 or 6 bits in the layout of MatMulNBits, `[O, N, bytes of a block]`. 6 bits are parts of 4 and 2 bits."""

    parts_ONS: nn.ParameterList

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__(tensor)
        levels_OI = (tensor.codes - tensor.scheme.lowest).view(torch.uint8).T
        self.block = _block(len(tensor.codes), tensor.scheme.bits)
        levels_ONS = F.pad(levels_OI, (0, -len(tensor.codes) % self.block)).unflatten(1, (-1, self.block))
        self.part_bits = _NBITS_PARTS[tensor.scheme.bits]
        self.parts_ONS = nn.ParameterList(
            nn.Parameter(_pack(levels_ONS >> lower & 2**bits - 1, bits), requires_grad=False)
            for bits, lower in self._parts()
        )

    def _parts(self) -> list[tuple[int, int]]:
        """Bit width of each part, and of all parts below it."""
        return [(bits, sum(self.part_bits[place + 1 :])) for place, bits in enumerate(self.part_bits)]

    def ones(self) -> Tensor:
        """Scales of the blocks, `[O, N]`, all 1: the outputs are scaled instead. Made when a file is loaded."""
        return torch.ones(()).expand(self.parts_ONS[0].shape[:2])

    def multiply(
        self, values_MI: Tensor, terms: int, factor_O: Tensor | None = None, biases_O: Tensor | None = None
    ) -> Tensor:
        """float32 `[M, I]` -> `values @ W * factor + biases`, `[M, O]`."""
        inputs, outputs = self.shape
        products_MO = None
        ones_ON, total_M1 = self.ones(), values_MI.sum(1, keepdim=True)
        for part_ONS, (bits, lower) in zip(self.parts_ONS, self._parts(), strict=True):
            product_MO = torch.onnx.ops.symbolic(
                "com.microsoft::MatMulNBits",
                [values_MI, part_ONS, ones_ON],
                nbits_attributes(inputs, outputs, bits, self.block),
                dtype=torch.float32,
                shape=(values_MI.shape[0], outputs),
                version=1,
            )
            products_MO = product_MO * 2**lower if products_MO is None else products_MO + product_MO
        assert products_MO is not None
        if len(self.part_bits) == 2:
            # MatMulNBits counts each part from its middle. The middle of the lower part must not be subtracted.
            products_MO = products_MO + total_M1 * 2 ** (self.part_bits[1] - 1)
        scale, offset_O = self.affine(factor_O)
        sums_MO = products_MO * scale + total_M1 * offset_O
        return sums_MO if biases_O is None else sums_MO + biases_O


def nbits_attributes(inputs: int, outputs: int, bits: int, block: int) -> dict[str, Any]:
    """Attributes of MatMulNBits."""
    return {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": _BYTE_ACTIVATIONS}


def _block(inputs: int, bits: int) -> int:
    """Inputs per block: the largest size with a fast kernel in MatMulNBits and little padding."""
    sizes = (256, 128, 64, 32) if bits == 4 else (128, 64, 32)
    return next((size for size in sizes if -inputs % size <= inputs // 64), 16)


def _pack(levels_ONS: Tensor, bits: int) -> Tensor:
    """Pack levels below `2 ** bits`, the first in a byte's lowest bits."""
    digits = levels_ONS.unflatten(-1, (-1, 8 // bits))
    packed = digits[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= digits[..., place] << place * bits
    return packed


class PackedWeight(nn.Module):
    """Any bit width and shape, packed as in `quantization/bit_packing.py`."""

    stored: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__()
        self.scheme, self.shape = tensor.scheme, tensor.codes.shape
        self.register_buffer("stored", stored_codes(tensor))
        for name, numbers in _numbers(tensor).items():
            self.register_buffer(name, numbers)

    def expand(self) -> Tensor:
        """The weights, float32."""
        codes = _floats(self.stored)
        if self.scheme.bits < 8:
            levels = unpack(codes.to(torch.uint8), self.shape.numel(), self.scheme.bits)
            codes = levels.view(self.shape).float() + self.scheme.lowest
        return (as_matrix(codes) * self.scale.float() + self.offset.float()).view(self.shape)


def _numbers(tensor: QuantizedTensor) -> dict[str, Tensor]:
    """Scale and offset as a graph stores them: half precision unchanged, float64 as the float32 ONNX Runtime uses."""
    dtype = torch.float32 if tensor.scale.dtype == torch.float64 else tensor.scale.dtype
    return {"scale": tensor.scale.to(dtype), "offset": tensor.offset.to(dtype)}


def _floats(codes: Tensor) -> Tensor:
    """Codes as float32, by an operator that ONNX Runtime does not fold when it loads a file."""
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", [codes, torch.ones(())], dtype=torch.float32, shape=codes.shape, version=OPSET
    )


WeightFormat = Int8Weight | NBitsWeight | PackedWeight


def weight_format(tensor: QuantizedTensor, *, nbits: bool) -> type[WeightFormat]:
    """The fastest format for a weight.

    Arguments:
        tensor: the weight.
        nbits: allow `NBitsWeight`. It is not a standard operator, and only matmuls can use it.
    """
    if tensor.codes.dim() == 2:
        if (tensor.scheme.bits == 8 or len(tensor.codes) <= FEW_INPUTS) and Int8Weight.fits(tensor):
            return Int8Weight
        if tensor.scheme.bits in _NBITS_PARTS and nbits:
            return NBitsWeight
    return PackedWeight


def graph_bytes(tensor: QuantizedTensor) -> int:
    """Bytes of a weight in a graph, at most."""
    if tensor.codes.dim() != 2:
        return tensor.nbytes
    inputs, outputs = tensor.codes.shape
    sums = 4 * outputs
    padding = -inputs % _block(inputs, tensor.scheme.bits) * outputs * tensor.scheme.bits // 8
    return tensor.nbytes + max(sums, padding)
