"""Uniform weights of 2 to 8 bits: a tensor's values become evenly spaced levels; how evenly spaced a `Grid` says.

`value = code * scale + offset` with one scale and offset a tensor, an output channel, or a channel and group of inputs.
That affine form keeps matmuls on integer kernels, `x @ (s q + m) = s (x @ q) + m sum(x)`; a free codebook
(`codebook.py`) would not. What it trades away is resolution where most weights lie: one outlier stretches all levels of
its scale. Finer scales, and `clip`, which gives outliers up, win it back.

Nearest levels are found in chunks that fit the cache, in float64: temporaries stay near 1 MB whatever the tensor's
size. With `moments` the levels are chosen for what the layer puts out instead: `compensation.py`.

Shapes: I inputs (rows of a weight matrix, the first axis), O outputs, G groups of inputs, S rows of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vidfit.quantization.bit_packing import packed_bytes
from vidfit.quantization.gptq import Moments, round_compensated

Granularity = Literal["tensor", "channel", 32, 64, 128]

_CHUNK = 1 << 17
# Below it a scale in half precision is some per cent off.
_SMALLEST_SCALE = 2.0**-20
# Shares of the range, about its middle, that `clip` tries.
_KEPT = torch.linspace(0.3, 1, 15, dtype=torch.float64)


class Grid(BaseModel):
    """How the levels of a tensor lie.

    Attributes:
        bits: a level is one of `2 ** bits`.
        granularity: what has a scale of its own: the tensor, each output channel (last axes), or each channel's groups
            of so many inputs, the last one shorter where they do not divide the inputs.
        symmetric: levels lie symmetrically around zero, none at it; no offset is stored.
        clip: the range of each scale has the least squared error, instead of being from minimum to maximum.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: Annotated[int, Field(ge=2, le=8)]
    granularity: Granularity = "tensor"
    symmetric: bool = False
    clip: bool = False

    def __str__(self) -> str:
        parts = [str(self.bits)]
        if self.granularity != "tensor":
            parts.append(str(self.granularity))
        return "/".join(parts + [name for name in ("symmetric", "clip") if getattr(self, name)])

    @classmethod
    def parse(cls, text: str) -> "Grid":
        """The grid that `str` wrote: bits, then by slashes a granularity other than the tensor, `symmetric`, `clip`.

        Raises:
            ValueError: the text is no grid.
        """
        bits, *rest = text.split("/")
        options: dict[str, object] = {"bits": bits}
        if rest and rest[0] not in ("symmetric", "clip"):
            granularity = rest.pop(0)
            options["granularity"] = int(granularity) if granularity.isdecimal() else granularity
        grid = cls.model_validate(options | dict.fromkeys(rest, True))
        if str(grid) != text:
            raise ValueError(f"{text!r} is no grid; did you mean {grid}?")
        return grid

    def rows(self, shape: torch.Size) -> int:
        """S, how many inputs of a tensor of this shape share a scale."""
        return self.granularity if isinstance(self.granularity, int) else matrix_shape(shape)[0]

    def scale_shape(self, shape: torch.Size) -> torch.Size:
        """`[G, O]` for a tensor of this shape; `[]` where it has one scale."""
        if self.granularity == "tensor":
            return torch.Size(())
        inputs, outputs = matrix_shape(shape)
        return torch.Size((-(-inputs // self.rows(shape)), outputs))

    @property
    def scale_dtype(self) -> torch.dtype:
        """float16; float64 where the tensor has one scale, as in float32 a rounded offset would move every value."""
        return torch.float64 if self.granularity == "tensor" else torch.float16

    @property
    def lowest(self) -> int:
        """Code of the lowest level."""
        return -(2 ** (self.bits - 1))


REFERENCE = Grid(bits=8)


@dataclass(frozen=True)
class QuantizedTensor:
    """Codes of a float32 tensor, any shape: `value = code * scale + offset`.

    Attributes:
        codes: int8 in [-2^(bits-1), 2^(bits-1)), the shape of the original; the lowest level has the lowest code.
        grid: how the levels lie.
        scale: distance between neighbouring levels, 0 for constant values; float16 `[G, O]`, but float64 `[]` where the
            tensor has one.
        offset: value of code 0, as the scale; None for a symmetric grid, where it is half the scale.
    """

    codes: Tensor
    grid: Grid
    scale: Tensor
    offset: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes in a file: packed codes, scales, offsets."""
        return stored_bytes(self.codes.shape, self.grid)

    def dequantize(self) -> Tensor:
        """The values as float32, each the nearest float32 to its level."""
        values = torch.empty(self.codes.shape, dtype=torch.float32, device=self.codes.device)
        codes_IO, values_IO = as_matrix(self.codes), as_matrix(values)
        scale_GO = torch.atleast_2d(self.scale.double())
        offset_GO = scale_GO / 2 if self.offset is None else torch.atleast_2d(self.offset.double())
        for groups, rows in chunks(codes_IO.shape, self.grid.rows(codes_IO.shape)):
            codes_GSO = split_groups(codes_IO[rows].double(), groups)
            values_IO[rows] = codes_GSO.mul_(scale_GO[groups, None]).add_(offset_GO[groups, None]).flatten(0, 1)
        return values


def stored_bytes(shape: torch.Size, grid: Grid) -> int:
    """Bytes in a file of a tensor of this shape: packed codes, scales, offsets."""
    numbers = grid.scale_shape(shape).numel() * (1 if grid.symmetric else 2)
    return packed_bytes(shape.numel(), grid.bits) + numbers * grid.scale_dtype.itemsize


def quantize(tensor: Tensor, grid: Grid, moments: Moments | None = None) -> QuantizedTensor:
    """A level for every value of a float32 tensor: the nearest, half-way the lower; with `moments`, as the outputs ask.

    Scales and offsets are rounded to half precision before the levels are chosen.

    Arguments:
        tensor: float32, any shape.
        grid: how the levels lie.
        moments: of the inputs that the tensor, a matrix `[I, O]`, is multiplied with; rounding is compensated, and
            `clip` weighs errors by them.

    Raises:
        ValueError: the tensor is not float32, is empty, holds NaN or infinity, or its values are too large or too close
            to each other for scales in half precision.

    Source: the 8-bit export of the 2018 winners' code: levels are a float64 linspace over [min, max].
    """
    finite_range(tensor)
    weights_IO = as_matrix(tensor.detach())
    group = grid.rows(tensor.shape)
    levels, scale, offset = _place(weights_IO, grid, moments)
    if moments is None:
        level_IO = torch.empty(weights_IO.shape, dtype=torch.uint8, device=tensor.device)
        for groups, rows in chunks(weights_IO.shape, group):
            values_GSO = split_groups(weights_IO[rows].double(), groups)
            level_IO[rows] = levels.nearest(values_GSO, groups).flatten(0, 1)
    else:
        level_IO = round_compensated(weights_IO, levels.low_GO, levels.scale_GO, group, grid.bits, moments)
    codes = level_IO.view(torch.int8).add_(grid.lowest).view(tensor.shape)
    return QuantizedTensor(codes, grid, scale, None if grid.symmetric else offset)


@dataclass
class Levels:
    """Where levels lie: number n of `2 ** bits` is `low + n * scale`; float64 `[G, O]`, or `[1, 1]` for one scale."""

    low_GO: Tensor
    scale_GO: Tensor
    bits: int

    @classmethod
    def over(cls, low_GO: Tensor, high_GO: Tensor, bits: int) -> "Levels":
        """Levels from `low_GO` to `high_GO`."""
        return cls(low_GO, (high_GO - low_GO) / (2**bits - 1), bits)

    def nearest(self, values_GSO: Tensor, groups: slice) -> Tensor:
        """Number of the level nearest to each float64 value, which it overwrites; the lower one half-way."""
        scale_G1O = self.scale_GO[groups, None]
        # Constant values, whose scale is 0, take level 0.
        level_GSO = values_GSO.sub_(self.low_GO[groups, None]).div_(scale_G1O.masked_fill(scale_G1O == 0, torch.inf))
        return level_GSO.sub_(0.5).ceil_().clamp_(0, 2**self.bits - 1)


def _place(weights_IO: Tensor, grid: Grid, moments: Moments | None) -> tuple[Levels, Tensor, Tensor]:
    """The levels of a matrix, and their scale and offset as they are stored."""
    low_GO, high_GO = _ranges(weights_IO, grid)
    if grid.clip:
        low_GO, high_GO = _clipped(weights_IO, low_GO, high_GO, grid, moments)
    levels = Levels.over(low_GO, high_GO, grid.bits)
    offset_GO = levels.low_GO - grid.lowest * levels.scale_GO
    if grid.granularity == "tensor":
        return levels, levels.scale_GO.view(()), offset_GO.view(())
    scale, offset = levels.scale_GO.half(), offset_GO.half()
    if not (scale.isfinite().all() and offset.isfinite().all()):
        raise ValueError("is too large for scales in half precision; give it one scale")
    if 0 < levels.scale_GO.max() < _SMALLEST_SCALE:
        raise ValueError("is too close to constant for scales in half precision; give it one scale")
    scale_GO = scale.double()
    offset_GO = scale_GO / 2 if grid.symmetric else offset.double()
    return Levels(offset_GO + grid.lowest * scale_GO, scale_GO, grid.bits), scale, offset


def _ranges(weights_IO: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Least and largest value of each group, float64 `[G, O]` or `[1, 1]`; of equal size for a symmetric grid."""
    lows, highs = [], []
    for part_IO in weights_IO.split(grid.rows(weights_IO.shape)):
        low, high = part_IO.aminmax(dim=None if grid.granularity == "tensor" else 0)
        lows.append(low.double().view(1, -1))
        highs.append(high.double().view(1, -1))
    low_GO, high_GO = torch.cat(lows), torch.cat(highs)
    if grid.symmetric:
        high_GO = torch.maximum(high_GO, -low_GO)
        low_GO = -high_GO
    return low_GO, high_GO


def _clipped(
    weights_IO: Tensor, low_GO: Tensor, high_GO: Tensor, grid: Grid, moments: Moments | None
) -> tuple[Tensor, Tensor]:
    """The part of each range, about its middle, whose levels have the least squared error, weighed by `moments`."""
    middle_GO, reach_GO = (high_GO + low_GO) / 2, (high_GO - low_GO) / 2
    importance_I1 = None if moments is None else moments.diagonal()[:, None]
    bounds_GO = [(middle_GO - kept * reach_GO, middle_GO + kept * reach_GO) for kept in _KEPT]
    candidates = [Levels.over(low.float(), high.float(), grid.bits) for low, high in bounds_GO]
    errors_NGO = torch.zeros(len(candidates), *low_GO.shape, dtype=torch.float64, device=weights_IO.device)
    for groups, rows in chunks(weights_IO.shape, grid.rows(weights_IO.shape)):
        values_GSO = split_groups(weights_IO[rows], groups)
        factor_GS1 = None if importance_I1 is None else split_groups(importance_I1[rows].float(), groups)
        for error_GO, levels in zip(errors_NGO, candidates, strict=True):
            level_GSO = levels.nearest(values_GSO.clone(), groups)
            level_GSO.mul_(levels.scale_GO[groups, None]).add_(levels.low_GO[groups, None]).sub_(values_GSO).square_()
            if factor_GS1 is not None:
                level_GSO.mul_(factor_GS1)
            error_GO[groups] += level_GSO.sum(1).sum_to_size(error_GO[groups].shape)
    kept_GO = _KEPT.to(weights_IO.device)[errors_NGO.argmin(0)]
    return middle_GO - kept_GO * reach_GO, middle_GO + kept_GO * reach_GO


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
        raise ValueError("holds NaN or infinity: training diverged; train again with a lower learning rate")
    return low, high


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """I and O of a tensor of any shape: its first axis, and all others together."""
    return (shape[0], shape[1:].numel()) if shape else (1, 1)


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor of any shape as `[I, O]`."""
    return tensor.reshape(matrix_shape(tensor.shape))


def chunks(shape: torch.Size, group: int) -> Iterator[tuple[slice, slice]]:
    """Groups, and the rows of a matrix in them, in order, each small enough for the cache.

    They are some whole groups of `group` rows each, or a part of one; a last, shorter group comes alone.
    """
    inputs, outputs = shape
    rows = max(1, _CHUNK // outputs)
    step = rows - rows % group or rows
    span = max(step, group)
    whole = inputs - inputs % group
    for begin, end in ((0, whole), (whole, inputs)):
        for first in range(begin, end, span):
            last = min(first + span, end)
            for start in range(first, last, step):
                yield slice(first // group, -(-last // group)), slice(start, min(start + step, last))


def split_groups(values: Tensor, groups: slice) -> Tensor:
    """The rows `[I, O]` of one chunk as `[G, S, O]`."""
    return values.unflatten(0, (groups.stop - groups.start, -1))
