"""How a weight is stored in a graph, and how activations are multiplied with it.

The product `x @ W` runs on the stored codes. Scales and offsets become a rank-1 correction:
`x @ (q s + m) = s (x @ q) + m sum(x)`. The weight is never expanded. A row's result does not depend on its batch; with
`NBitsWeight` it does, slightly.

- `FloatWeight`: weights that are not quantised.
- `Int8Weight`: one byte per code when the file is loaded. ONNX's `MatMulInteger`. Each row of activations gets
  128 levels between its own minimum and maximum; docs/evidence/performance.md has the cost in GAP. In heads and gates a
  second row holds the remainders. There is little work there, and 14 bits are as good as a float.
- `NBitsWeight`: 2, 4 and 6 bits with many inputs (long descriptors). ONNX Runtime's `MatMulNBits`, which also makes
  bytes of activations, by blocks of inputs. It reads the fewest bytes, so it is the fastest for one row. For many rows
  it takes two to ten times as long as `MatMulInteger`.
- `PackedWeight`: other shapes, and codes whose sums of products could overflow. Expanded at each run.
  DequantizeLinear comes first: without it, ONNX Runtime would fold the weight into a float matrix when it loads the
  file.

Why activations have 7 bits: without VNNI, ONNX Runtime adds two products of bytes in 16 bits, and they saturate
silently. Two products of 128 * 128 fit. Why they are unsigned: there is no fast kernel for signed activations.

Shapes: M rows, I inputs, O outputs, N blocks, S inputs of a block.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidfit.export.bit_unpacking import as_bytes, unpack
from vidfit.export.graph_writer import GraphWriter, Operand, Value
from vidfit.quantization.state import stored_codes
from vidfit.quantization.uniform import QuantizedTensor, as_matrix

# A matrix with at most this many inputs is small: it multiplies remainders too, and its codes become bytes.
FEW_INPUTS = 8192
_LEVELS = 128
# The accuracy_level of MatMulNBits that makes bytes of activations.
_BYTE_ACTIVATIONS = 4
# Bit width of a weight -> bit widths of the parts that MatMulNBits multiplies, the highest bits first.
_NBITS_PARTS = {2: (2,), 4: (4,), 6: (4, 2)}


class Rows(Protocol):
    """Float rows `[M, I]` that an `Int8Weight` multiplies: a value, or a descriptor in parts."""

    def min(self, axis: int) -> Value: ...
    def max(self, axis: int) -> Value: ...
    def sum(self, axis: int) -> Value: ...
    def quantized(self, step_M1: Value, zero_M1: Value) -> Value: ...


class WeightFormat(ABC):
    """A matrix `[I, O]` in a graph, multiplied by its float values.

    Arguments:
        graph: the graph that stores it.
        shape: `[I, O]`.
    """

    def __init__(self, graph: GraphWriter, shape: torch.Size) -> None:
        self.graph, self.shape = graph, shape

    @abstractmethod
    def folded(self, column_I: Operand | None = None, factor_O: Operand | None = None) -> Value:
        """`column * W * factor`, float32 `[I, O]`."""

    def multiply_frames(
        self,
        frames_MI: Value,
        column_I: Operand | None = None,
        factor_O: Operand | None = None,
        biases_O: Operand | None = None,
    ) -> Value:
        """Rows of frames, many of them: `(frames * column) @ W * factor + biases`, float32 `[M, O]`."""
        return _gemm(frames_MI, self.folded(column_I, factor_O), biases_O)

    def multiply(self, values_MI: Any, factor_O: Operand | None = None, biases_O: Operand | None = None) -> Value:
        """Rows of videos: `values @ W * factor + biases`, float32 `[M, O]`."""
        return _gemm(values_MI, self.folded(None, factor_O), biases_O)


def _gemm(values_MI: Value, weights_IO: Value, biases_O: Operand | None) -> Value:
    if biases_O is None:
        return values_MI @ weights_IO
    return values_MI.graph.add("Gemm", values_MI, weights_IO, biases_O)


class FloatWeight(WeightFormat):
    """Weights that are not quantised. Factors are multiplied in before they are stored."""

    def __init__(self, graph: GraphWriter, name: str, weights_IO: Tensor) -> None:
        super().__init__(graph, weights_IO.shape)
        self.name, self.weights_IO = name, weights_IO

    def folded(self, column_I: Operand | None = None, factor_O: Operand | None = None) -> Value:
        weights: Any = self.weights_IO
        if column_I is not None:
            weights = weights * _as_column(column_I)
        if factor_O is not None:
            weights = weights * factor_O
        return weights if isinstance(weights, Value) else self.graph.constant(weights, self.name)


class PackedWeight(WeightFormat):
    """Any bit width and shape, packed as in `quantization/bit_packing.py`."""

    def __init__(self, graph: GraphWriter, name: str, tensor: QuantizedTensor) -> None:
        super().__init__(graph, tensor.codes.shape)
        self.scheme, self.rows = tensor.scheme, len(as_matrix(tensor.codes))
        self.stored = graph.constant(stored_codes(tensor), f"{name}.stored")
        self.scale, self.offset = _scale_and_offset(graph, name, tensor)

    def folded(self, column_I: Operand | None = None, factor_O: Operand | None = None) -> Value:
        # With a zero point: without one, ONNX Runtime 1.20 rounds negative codes to 0 (its QDQPropagation).
        zero = np.int8(0) if self.scheme.bits == 8 else np.uint8(0)
        codes = self.graph.add("DequantizeLinear", self.stored, 1.0, zero)
        if self.scheme.bits < 8:
            codes = unpack(codes.cast(np.uint8), self.shape.numel(), self.scheme.bits).cast(np.float32)
            codes = codes + float(self.scheme.lowest)
        scale, offset_O = _scaled(self.scale, self.offset, factor_O)
        weights = (codes.reshape(self.rows, -1) * scale + offset_O).reshape(*self.shape)
        return weights if column_I is None else weights * _as_column(column_I)


class _AffineWeight(WeightFormat):
    """Base of the formats that multiply codes: `W = codes * scale + offset`, one scale per tensor or per output."""

    def __init__(self, graph: GraphWriter, name: str, tensor: QuantizedTensor) -> None:
        super().__init__(graph, tensor.codes.shape)
        scale, offset = _scale_and_offset(graph, name, tensor)
        self.scale, self.offset_O = scale, graph.add("Expand", offset, graph.integers(self.shape[1]))


class Int8Weight(_AffineWeight):
    """One byte per code. Narrower codes are packed in the file and become bytes when it is loaded."""

    def __init__(self, graph: GraphWriter, name: str, tensor: QuantizedTensor) -> None:
        super().__init__(graph, name, tensor)
        # Narrower codes go to the highest bits of a byte, so the scale is that of larger codes.
        raised = 2 ** (8 - tensor.scheme.bits)
        self.codes_IO = graph.constant(stored_codes(tensor), f"{name}.stored")
        if tensor.scheme.bits < 8:
            levels = unpack(self.codes_IO, self.shape.numel(), tensor.scheme.bits).reshape(*self.shape)
            self.codes_IO, self.scale = as_bytes(levels, tensor.scheme.bits), self.scale / float(raised)
        sums_O = tensor.codes.sum(0, dtype=torch.int32) * raised
        self.sums_O = graph.constant(sums_O, f"{name}.sums_O").cast(np.float32)

    @staticmethod
    def fits(tensor: QuantizedTensor) -> bool:
        """Whether all sums of products fit 32 bits. One outlier among 10^5 inputs can make them overflow."""
        largest = max(tensor.codes.clamp(min=0).sum(0).max(), -tensor.codes.clamp(max=0).sum(0).min())
        return _LEVELS * int(largest) * 2 ** (8 - tensor.scheme.bits) < 2**31

    def folded(self, column_I: Operand | None = None, factor_O: Operand | None = None) -> Value:
        """Expanded once, when a file is loaded. For small ones, such as centres."""
        scale, offset_O = _scaled(self.scale, self.offset_O, factor_O)
        weights_IO = self.codes_IO.cast(np.float32) * scale + offset_O
        return weights_IO if column_I is None else weights_IO * _as_column(column_I)

    def multiply_frames(
        self,
        frames_MI: Value,
        column_I: Operand | None = None,
        factor_O: Operand | None = None,
        biases_O: Operand | None = None,
    ) -> Value:
        """With one term: frames come from bytes, and pooling follows. A single row may differ slightly."""
        frames_MI = frames_MI if column_I is None else frames_MI * column_I
        products_MO, columns_M1, rows_O = self.uncorrected(FloatRows(frames_MI, self.shape[0]), factor_O)
        left_MR, right_RO = side_by_side(columns_M1, rows_O, biases_O)
        return self.graph.add("Gemm", left_MR, right_RO, products_MO)

    def multiply(
        self, values_MI: "Value | Rows", factor_O: Operand | None = None, biases_O: Operand | None = None
    ) -> Value:
        """With two terms, so with remainders, where inputs are few."""
        rows = FloatRows(values_MI, self.shape[0]) if isinstance(values_MI, Value) else values_MI
        if isinstance(rows, FloatRows) and self.shape[0] <= FEW_INPUTS:
            sums_MO, columns_M1, rows_O = self.uncorrected_twice(rows, factor_O)
        else:
            sums_MO, columns_M1, rows_O = self.uncorrected(rows, factor_O)
        # No matmul: ONNX Runtime would fuse it with the sum, and add up a single row in another order.
        for column_M1, row_O in zip(columns_M1, rows_O, strict=True):
            sums_MO = sums_MO + column_M1 * row_O
        return sums_MO if biases_O is None else sums_MO + biases_O

    def uncorrected(self, values_MI: Rows, factor_O: Operand | None = None) -> tuple[Value, list[Value], list[Value]]:
        """The product before its correction, `[M, O]`, and the columns `[M, 1]` and rows `[O]` to correct it with."""
        step_M1, zero_M1 = row_levels(values_MI)
        products_MO = self._dot(values_MI.quantized(step_M1, zero_M1))
        return self._unscaled(products_MO, step_M1, zero_M1, values_MI, factor_O)

    def uncorrected_twice(
        self, values_MI: "FloatRows", factor_O: Operand | None = None
    ) -> tuple[Value, list[Value], list[Value]]:
        """As `uncorrected`, but the remainders of activations are multiplied too."""
        step_M1, zero_M1 = row_levels(values_MI)
        bytes_MI = values_MI.quantized(step_M1, zero_M1)
        middle, finer = float(_LEVELS // 2), float(_LEVELS - 2)
        rest_MI = values_MI.values - (bytes_MI.cast(np.float32) - zero_M1) * step_M1
        rest_MI = FloatRows(rest_MI, values_MI.size).quantized(step_M1 / finer, step_M1.full_like(middle))
        # Side by side, so that the codes are read once.
        both_2MO = self._dot(self.graph.concat([bytes_MI, rest_MI], axis=0)).reshape(2, -1, self.shape[1])
        products_MO = both_2MO.pick(0, 0) + both_2MO.pick(0, 1) / finer
        return self._unscaled(products_MO, step_M1, zero_M1 + middle / finer, values_MI, factor_O)

    def _unscaled(
        self, products_MO: Value, step_M1: Value, zero_M1: Value, values_MI: Rows, factor_O: Operand | None
    ) -> tuple[Value, list[Value], list[Value]]:
        scale, offset_O = _scaled(self.scale, self.offset_O, factor_O)
        # Zero points and offsets together: x @ (q s + m) = step s (bytes @ q) - (zero step) (s sum(q)) + sum(x) m.
        return products_MO * (step_M1 * scale), [-zero_M1 * step_M1, values_MI.sum(1)], [self.sums_O * scale, offset_O]

    def _dot(self, bytes_MI: Value) -> Value:
        """`bytes @ codes`, float32 `[M, O]`."""
        return dot(bytes_MI, self.codes_IO).cast(np.float32)


class FloatRows:
    """A float32 value `[M, I]` as `Rows`."""

    def __init__(self, values: Value, size: int) -> None:
        self.values, self.size = values, size

    def min(self, axis: int) -> Value:
        return self.values.min(axis)

    def max(self, axis: int) -> Value:
        return self.values.max(axis)

    def sum(self, axis: int) -> Value:
        return self.values.sum(axis)

    def quantized(self, step_M1: Value, zero_M1: Value) -> Value:
        """uint8 `[M, I]`."""
        return quantized(self.values, step_M1, zero_M1.cast(np.uint8), self.size)


def row_levels(values_MI: Rows) -> tuple[Value, Value]:
    """Step and zero point, both float32 `[M, 1]`, of 128 levels from a row's minimum to its maximum, and over zero."""
    low_M1 = values_MI.min(1).clamp(high=0.0)
    step_M1 = ((values_MI.max(1).clamp(low=0.0) - low_M1) / float(_LEVELS - 1)).clamp(low=1e-30)
    return step_M1, (-low_M1 / step_M1).round()


def side_by_side(columns_M1: list[Value], rows_O: list[Value], biases_O: Operand | None) -> tuple[Value, Value]:
    """Corrections and biases as the two factors of one matmul: `[M, R]` and `[R, O]`."""
    graph = columns_M1[0].graph
    if biases_O is not None:
        biases = biases_O if isinstance(biases_O, Value) else graph.constant(biases_O)
        columns_M1, rows_O = [*columns_M1, columns_M1[0].full_like(1.0)], [*rows_O, biases]
    return graph.concat(columns_M1, axis=1), graph.concat([row.unsqueeze(0) for row in rows_O], axis=0)


def dot(left: Value, right: Value) -> Value:
    """uint8 `[..., M, I]` and int8 `[..., I, O]` -> int32 `[..., M, O]`."""
    return left.graph.add("MatMulInteger", left, right)


def quantized(values: Value, step: Operand, zero: Operand, size: int | None = None) -> Value:
    """Values in steps, rounded to the nearest integer, plus the zero point, clipped to the zero point's dtype.

    Arguments:
        values: float32 `[..., I]`.
        step: one number; with `size` one per row, `[..., 1]`.
        zero: uint8 or int8, in the shape of `step`.
        size: I.
    """
    # A row is one block along the last axis. Steps along the first axis take ONNX Runtime twice as long.
    rows = {} if size is None else {"axis": -1, "block_size": size}
    return values.graph.add("QuantizeLinear", values, step, zero, **rows)


class NBitsWeight(_AffineWeight):
    """2, 4 or 6 bits in the layout of MatMulNBits, `[O, N, bytes of a block]`. 6 bits are parts of 4 and 2 bits."""

    def __init__(self, graph: GraphWriter, name: str, tensor: QuantizedTensor) -> None:
        super().__init__(graph, name, tensor)
        levels_OI = (tensor.codes - tensor.scheme.lowest).view(torch.uint8).T
        self.block = _block(len(tensor.codes), tensor.scheme.bits)
        levels_ONS = F.pad(levels_OI, (0, -len(tensor.codes) % self.block)).unflatten(1, (-1, self.block))
        self.part_bits = _NBITS_PARTS[tensor.scheme.bits]
        self.blocks = levels_ONS.shape[1]
        self.parts_ONS = [
            graph.constant(_pack(levels_ONS >> lower & 2**bits - 1, bits), f"{name}.parts_ONS.{place}")
            for place, (bits, lower) in enumerate(self._parts())
        ]

    def _parts(self) -> list[tuple[int, int]]:
        """Bit width of each part, and of all parts below it."""
        return [(bits, sum(self.part_bits[place + 1 :])) for place, bits in enumerate(self.part_bits)]

    def folded(self, column_I: Operand | None = None, factor_O: Operand | None = None) -> Value:
        raise NotImplementedError("only products use this format")

    def multiply(self, values_MI: Value, factor_O: Operand | None = None, biases_O: Operand | None = None) -> Value:
        inputs, outputs = self.shape
        # Scales of the blocks are all 1: the outputs are scaled instead. Made when a file is loaded.
        ones_ON = self.graph.add("Expand", 1.0, self.graph.integers(outputs, self.blocks))
        total_M1, products_MO = values_MI.sum(1), None
        for part_ONS, (bits, lower) in zip(self.parts_ONS, self._parts(), strict=True):
            product_MO = self.graph.add(
                "MatMulNBits",
                *(values_MI, part_ONS, ones_ON),
                domain="com.microsoft",
                K=inputs,
                N=outputs,
                bits=bits,
                block_size=self.block,
                accuracy_level=_BYTE_ACTIVATIONS,
            )
            products_MO = product_MO * float(2**lower) if products_MO is None else products_MO + product_MO
        assert products_MO is not None
        if len(self.part_bits) == 2:
            # MatMulNBits counts each part from its middle. The middle of the lower part must not be subtracted.
            products_MO = products_MO + total_M1 * 2.0 ** (self.part_bits[1] - 1)
        scale, offset_O = _scaled(self.scale, self.offset_O, factor_O)
        sums_MO = products_MO * scale + total_M1 * offset_O
        return sums_MO if biases_O is None else sums_MO + biases_O


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


def _as_column(numbers_I: Operand) -> Any:
    """`[I]` -> `[I, 1]`."""
    return numbers_I.unsqueeze(1) if isinstance(numbers_I, Value | Tensor) else numbers_I


def _scale_and_offset(graph: GraphWriter, name: str, tensor: QuantizedTensor) -> tuple[Value, Value]:
    """float32 `[O]` or `[1]`. A graph stores half precision as it is, float64 as the float32 ONNX Runtime uses."""
    dtype = torch.float32 if tensor.scale.dtype == torch.float64 else tensor.scale.dtype
    scale, offset = (
        graph.constant(getattr(tensor, part).to(dtype).flatten(), f"{name}.{part}") for part in ("scale", "offset")
    )
    return (scale, offset) if dtype == torch.float32 else (scale.cast(np.float32), offset.cast(np.float32))


def _scaled(scale: Value, offset: Value, factor_O: Operand | None) -> tuple[Value, Value]:
    return (scale, offset) if factor_O is None else (scale * factor_O, offset * factor_O)


def weight_format(tensor: QuantizedTensor, *, nbits: bool) -> type[Int8Weight] | type[NBitsWeight] | type[PackedWeight]:
    """The fastest format for a quantised weight.

    Arguments:
        tensor: the weight.
        nbits: allow `NBitsWeight`. It is not a standard operator, and only matmuls can use it.
    """
    if tensor.codes.dim() == 2:
        if nbits and tensor.scheme.bits in _NBITS_PARTS and len(tensor.codes) > FEW_INPUTS:
            return NBitsWeight
        if Int8Weight.fits(tensor):
            return Int8Weight
    return PackedWeight


def graph_bytes(tensor: QuantizedTensor) -> int:
    """Bytes of a weight in a graph, at most."""
    if tensor.codes.dim() != 2:
        return tensor.nbytes
    inputs, outputs = tensor.codes.shape
    sums = 4 * outputs
    padding = -inputs % _block(inputs, tensor.scheme.bits) * outputs * tensor.scheme.bits // 8
    return tensor.nbytes + max(sums, padding)
