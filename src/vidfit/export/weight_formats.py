"""How a quantised weight stands in a graph, and how activations are multiplied with it.

`x @ W` is done on the stored codes; what their scales and offsets ask for is a correction of rank one:
`x @ (q s + m) = s (x @ q) + m sum(x)`. The weight is never expanded, and a row's result does not depend on its batch,
or of `Blocks` by little.

- `Bytes`, 8 bits, and any width where inputs are few: `MatMulInteger`. A row of activations gets 128 levels between
  its own minimum and maximum. What that costs in GAP: docs/evidence/performance.md. In heads and gates the
  remainders are a second row: there is little work there, and 14 bits are as good as a float.
- `Blocks`, 2, 4 and 6 bits of long descriptors: ONNX Runtime's `MatMulNBits`, which has bytes for activations too, by
  blocks of inputs. Of many rows it takes two to ten times as long as `MatMulInteger`, and a single row is added up in
  another order; but a hidden layer of bytes would be twice as large in memory as in the file.
- `Planes`, any other: expanded for a moment at each run. DequantizeLinear stands first, because ONNX Runtime folds all
  else into a float matrix when it loads a file.
- `LookUp`: codes with a codebook; expanded, too.

Why 7 bits of an activation and not 8: without VNNI, ONNX Runtime adds two products of an unsigned and a signed byte in
16 bits, and they saturate silently; two of 128 * 128 do not. Why unsigned: signed ones have no fast kernel there.

Shapes: M rows, I inputs, O outputs, G groups of inputs, N blocks, S inputs of a block.
"""

from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit.quantization.bit_packing import shifted, unpack
from vidfit.quantization.codebook import CodebookTensor
from vidfit.quantization.state import Quantized, stored_codes
from vidfit.quantization.uniform import QuantizedTensor, as_matrix

OPSET = 23
# Up to so many inputs a matrix is small: the remainders of activations count, and codes become bytes.
FEW_INPUTS = 8192
_LEVELS = 128
_INT32 = 6  # ONNX's number for the type
# MatMulNBits' accuracy_level that has bytes for activations.
_BYTE_ACTIVATIONS = 4
# Bits -> widths of what MatMulNBits multiplies, the highest bits first.
_BLOCKS = {2: (2,), 4: (4,), 6: (4, 2)}


class InParts(Protocol):
    """Float rows `[M, I]` that no tensor holds: all that `Bytes.multiply` with one term asks of its values."""

    def amin(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor: ...
    def amax(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor: ...
    def sum(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor: ...
    def quantised(self, step: Tensor, dtype: torch.dtype, zero: Tensor) -> Tensor: ...


class Affine(nn.Module):
    """What the forms share whose outputs each have one scale, or all the same: `W = codes * scale + offset`.

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


class Bytes(Affine):
    """A byte a code, in the file or, of narrower ones, from when it is loaded."""

    stored: Tensor
    sums_O: Tensor

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__(tensor)
        self.grid = tensor.grid
        self.register_buffer("stored", stored_codes(tensor))
        # Narrower codes lie in the highest bits of a byte.
        self.raised = 2 ** (8 - tensor.grid.bits)
        self.register_buffer("sums_O", tensor.codes.sum(0, dtype=torch.int32) * self.raised)

    def codes(self) -> Tensor:
        """int8 `[I, O]`; what unpacks them is of constants alone, so ONNX Runtime does it when it loads a file."""
        if self.grid.bits == 8:
            return self.stored
        levels_IO = unpack(self.stored, self.shape.numel(), self.grid.bits).view(self.shape)
        highest_IO = shifted(levels_IO, torch.tensor(8 - self.grid.bits, dtype=torch.uint8), "LEFT")
        # Less 128, in bytes all the way: nothing wider is made of a whole matrix.
        return torch.bitwise_xor(highest_IO, torch.tensor(128, dtype=torch.uint8)).to(torch.int8)

    def affine(self, factor_O: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As of all forms; the scale is that of `codes`."""
        scale, offset_O = super().affine(factor_O)
        return scale / self.raised, offset_O

    def expand(self) -> Tensor:
        """The weights, float32 `[I, O]`, made once when a file is loaded: centres and the like, which are small."""
        scale, offset_O = self.affine()
        return self.codes().float() * scale + offset_O

    @staticmethod
    def fits(tensor: QuantizedTensor) -> bool:
        """Whether no sum of products leaves 32 bits, as one outlier among 10^5 inputs could make it."""
        largest = max(tensor.codes.clamp(min=0).sum(0).max(), -tensor.codes.clamp(max=0).sum(0).min())
        return _LEVELS * int(largest) * 2 ** (8 - tensor.grid.bits) < 2**31

    def multiply(
        self, values_MI: Tensor | InParts, terms: int, factor_O: Tensor | None = None, biases_O: Tensor | None = None
    ) -> Tensor:
        """float32 `[M, I]` -> `values @ W * factor + biases`, `[M, O]`.

        With 2 terms the remainders of activations count, too.
        """
        sums_MO, columns_M1, rows_O = self.uncorrected(values_MI, terms, factor_O)
        # No matmul, of which ONNX Runtime makes one with the sum, and a single row's is added up in another order.
        for column_M1, row_O in zip(columns_M1, rows_O, strict=True):
            sums_MO = sums_MO + column_M1 * row_O
        return sums_MO if biases_O is None else sums_MO + biases_O

    def multiply_frames(
        self, frames_NI: Tensor, factor_O: Tensor | None = None, biases_O: Tensor | None = None
    ) -> Tensor:
        """As `multiply` with one term, in fewer passes over many rows; that of a single frame may differ by little."""
        products_NO, columns_N1, rows_O = self.uncorrected(frames_NI, 1, factor_O)
        left_NR, right_RO = side_by_side(columns_N1, rows_O, biases_O)
        return products_NO + left_NR @ right_RO

    def uncorrected(
        self, values_MI: Tensor | InParts, terms: int, factor_O: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What `multiply` adds up: `[M, O]`, and columns `[M, 1]` and rows `[O]` whose products correct it."""
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
        # Zero points and offsets in one: x @ (q s + m) = step s (bytes @ q) - (zero step) (s sum(q)) + sum(x) m.
        columns_M1 = [-zero_M1 * step_M1, values_MI.sum(1, keepdim=True)]
        return products_MO * (step_M1 * scale), columns_M1, [self.sums_O.float() * scale, offset_O]

    def _dot(self, bytes_MI: Tensor) -> Tensor:
        """`bytes @ codes`, float32 `[M, O]`."""
        return dot(bytes_MI, self.codes()).float()


def side_by_side(columns_M1: list[Tensor], rows_O: list[Tensor], biases_O: Tensor | None) -> tuple[Tensor, Tensor]:
    """What corrects products, and biases, as the factors of one matmul: `[M, R]` and `[R, O]`."""
    if biases_O is not None:
        columns_M1, rows_O = [*columns_M1, torch.ones_like(columns_M1[0])], [*rows_O, biases_O]
    return torch.cat(columns_M1, dim=1), torch.stack(rows_O)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """uint8 `[..., M, I]` and int8 `[..., I, O]` -> int32 `[..., M, O]`."""
    return torch.onnx.ops.symbolic(
        "MatMulInteger", [left, right], dtype=torch.int32, shape=(*left.shape[:-1], right.shape[-1]), version=OPSET
    )


def quantised(values: Tensor | InParts, step: Tensor, dtype: torch.dtype, zero: Tensor | None = None) -> Tensor:
    """Rounded to the nearest whole number of steps, from a zero point on, and clipped to the integers of `dtype`.

    Arguments:
        values: float32 `[..., I]`.
        step: a number, or of each row, `[..., 1]`.
        dtype: uint8 or int8.
        zero: whole numbers of step's shape; None for zeros.
    """
    zero = torch.zeros_like(step) if zero is None else zero
    if not isinstance(values, Tensor):
        return values.quantised(step, dtype, zero)
    # A row as a block along the last axis: a step by the first axis takes ONNX Runtime twice as long.
    rows: dict[str, Any] = {"axis": -1, "block_size": values.shape[-1]} if step.dim() else {}
    return torch.onnx.ops.symbolic(
        "QuantizeLinear", [values, step, zero.to(dtype)], rows, dtype=dtype, shape=values.shape, version=OPSET
    )


class Blocks(Affine):
    """2, 4 or 6 bits in MatMulNBits' layout, `[O, N, bytes of a block]`, one or two of them."""

    parts_ONS: nn.ParameterList

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__(tensor)
        levels_OI = (tensor.codes - tensor.grid.lowest).view(torch.uint8).T
        self.block = _block(len(tensor.codes), tensor.grid.bits)
        levels_ONS = F.pad(levels_OI, (0, -len(tensor.codes) % self.block)).unflatten(1, (-1, self.block))
        self.widths = _BLOCKS[tensor.grid.bits]
        self.parts_ONS = nn.ParameterList(
            nn.Parameter(_pack(levels_ONS >> rest & 2**width - 1, width), requires_grad=False)
            for width, rest in self._parts()
        )

    def _parts(self) -> list[tuple[int, int]]:
        """Width of each part and the bits below it."""
        return [(width, sum(self.widths[place + 1 :])) for place, width in enumerate(self.widths)]

    def ones(self) -> Tensor:
        """`[O, N]` scales of blocks: the outputs are scaled instead. Made when a file is loaded."""
        return torch.ones(()).expand(self.parts_ONS[0].shape[:2])

    def multiply(
        self, values_MI: Tensor, terms: int, factor_O: Tensor | None = None, biases_O: Tensor | None = None
    ) -> Tensor:
        """float32 `[M, I]` -> `values @ W * factor + biases`, `[M, O]`."""
        inputs, outputs = self.shape
        products_MO = None
        ones_ON, total_M1 = self.ones(), values_MI.sum(1, keepdim=True)
        for part_ONS, (width, rest) in zip(self.parts_ONS, self._parts(), strict=True):
            product_MO = torch.onnx.ops.symbolic(
                "com.microsoft::MatMulNBits",
                [values_MI, part_ONS, ones_ON],
                nbits(inputs, outputs, width, self.block),
                dtype=torch.float32,
                shape=(values_MI.shape[0], outputs),
                version=1,
            )
            products_MO = product_MO * 2**rest if products_MO is None else products_MO + product_MO
        assert products_MO is not None
        if len(self.widths) == 2:
            # Each part is counted from its middle, and that of the lower one is not the whole's.
            products_MO = products_MO + total_M1 * 2 ** (self.widths[1] - 1)
        scale, offset_O = self.affine(factor_O)
        sums_MO = products_MO * scale + total_M1 * offset_O
        return sums_MO if biases_O is None else sums_MO + biases_O


def nbits(inputs: int, outputs: int, width: int, block: int) -> dict[str, Any]:
    """Attributes of MatMulNBits."""
    return {"K": inputs, "N": outputs, "bits": width, "block_size": block, "accuracy_level": _BYTE_ACTIVATIONS}


def _block(inputs: int, bits: int) -> int:
    """Inputs of a block: as many as MatMulNBits has quick kernels for, and hardly any of them padding."""
    sizes = (256, 128, 64, 32) if bits == 4 else (128, 64, 32)
    return next((size for size in sizes if -inputs % size <= inputs // 64), 16)


def _pack(levels_ONS: Tensor, width: int) -> Tensor:
    """Levels below `2 ** width`, the first in a byte's lowest bits."""
    digits = levels_ONS.unflatten(-1, (-1, 8 // width))
    packed = digits[..., 0].clone()
    for place in range(1, 8 // width):
        packed |= digits[..., place] << place * width
    return packed


class Planes(nn.Module):
    """Any width, packed as in `quantization/bit_packing.py`, with scales of a tensor, channels or groups."""

    stored: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, tensor: QuantizedTensor) -> None:
        super().__init__()
        self.grid, self.shape = tensor.grid, tensor.codes.shape
        self.register_buffer("stored", stored_codes(tensor))
        for name, numbers in _numbers(tensor).items():
            self.register_buffer(name, numbers)

    def expand(self) -> Tensor:
        """The weights, float32."""
        codes = _floats(self.stored)
        if self.grid.bits < 8:
            levels = unpack(codes.to(torch.uint8), self.shape.numel(), self.grid.bits)
            codes = levels.view(self.shape).float() + self.grid.lowest
        codes_IO = as_matrix(codes)
        scale = self.scale.float()
        offset = self.offset.float()
        if scale.dim() == 0:
            return (codes_IO * scale + offset).view(self.shape)
        inputs, size = len(codes_IO), self.grid.rows(self.shape)
        padded_IO = F.pad(codes_IO, (0, 0, 0, len(scale) * size - inputs))
        values_GSO = padded_IO.unflatten(0, (len(scale), size)) * scale[:, None] + offset[:, None]
        return values_GSO.flatten(0, 1)[:inputs].view(self.shape)


class LookUp(nn.Module):
    """uint8 codes and the codebook's float32 values."""

    codes: Tensor
    codebook: Tensor

    def __init__(self, tensor: CodebookTensor) -> None:
        super().__init__()
        self.register_buffer("codes", tensor.codes)
        self.register_buffer("codebook", tensor.codebook)

    def expand(self) -> Tensor:
        """The weights, float32."""
        places = torch.onnx.ops.symbolic(
            "Cast", [_floats(self.codes)], {"to": _INT32}, dtype=torch.int32, shape=self.codes.shape, version=OPSET
        )
        return torch.onnx.ops.symbolic(
            "Gather", [self.codebook, places], dtype=torch.float32, shape=self.codes.shape, version=OPSET
        )


def _numbers(tensor: QuantizedTensor) -> dict[str, Tensor]:
    """Scales and offsets as a graph stores them: ONNX Runtime computes in float32, half precision stays as it is."""
    dtype = torch.float32 if tensor.scale.dtype == torch.float64 else tensor.scale.dtype
    offset = tensor.scale / 2 if tensor.offset is None else tensor.offset
    return {"scale": tensor.scale.to(dtype), "offset": offset.to(dtype)}


def _floats(codes: Tensor) -> Tensor:
    """Codes as float32, not folded at loading."""
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", [codes, torch.ones(())], dtype=torch.float32, shape=codes.shape, version=OPSET
    )


Form = Bytes | Blocks | Planes | LookUp


def form_of(tensor: Quantized, *, blocks: bool) -> Form:
    """The quickest form of a weight.

    Arguments:
        tensor: the weight.
        blocks: admit `Blocks`, which are no standard operators, and no weights but of a matmul.
    """
    return LookUp(tensor) if isinstance(tensor, CodebookTensor) else kind_of(tensor, blocks=blocks)(tensor)


def kind_of(tensor: QuantizedTensor, *, blocks: bool) -> type[Bytes | Blocks | Planes]:
    """The form that `form_of` gives a weight with a grid."""
    if tensor.codes.dim() == 2 and len(torch.atleast_2d(tensor.scale)) == 1:
        if (tensor.grid.bits == 8 or len(tensor.codes) <= FEW_INPUTS) and Bytes.fits(tensor):
            return Bytes
        if tensor.grid.bits in _BLOCKS and blocks:
            return Blocks
    return Planes


def graph_bytes(tensor: Quantized) -> int:
    """Bytes of a weight in a graph, at most."""
    if isinstance(tensor, CodebookTensor) or tensor.codes.dim() != 2:
        return tensor.nbytes
    inputs, outputs = tensor.codes.shape
    sums = 4 * outputs
    padding = -inputs % _block(inputs, tensor.grid.bits) * outputs * tensor.grid.bits // 8
    return tensor.nbytes + max(sums, padding)
