"""GAP of members with 256 levels per tensor: evenly spaced, at quantiles, or by k-means.

For comparison only; vidfit packs evenly spaced levels. Matmuls cannot run on the codes of a free codebook: each weight
must be looked up first. benchmarks/LOG.md has the result, under "Codebooks".

Both methods sort one copy of the values. K-means needs 255 searches in the sorted values per step, and sums between
them. So it is exact and takes about a millisecond per step at any size.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rounding import gap, probabilities
from table import options, publish
from torch import Tensor

from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.quantization.member import Member, load_member
from vidfit.quantization.state import is_big
from vidfit.quantization.uniform import INT8, check_quantizable, quantize
from vidfit.recipe import load_recipe

LEVELS = 256
_MIDDLES = (np.arange(LEVELS) + 0.5) / LEVELS
_CELLS = 1 << 16
_BLOCK = 256
_STEPS = 1000
_CHUNK = 1 << 16
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CodebookTensor:
    """A float32 tensor as 8-bit codes: `value = codebook[code]`.

    Attributes:
        codes: uint8, in the tensor's shape.
        codebook: float32 `[256]`, ascending; levels may repeat.
    """

    codes: Tensor
    codebook: Tensor

    def dequantize(self) -> Tensor:
        """The values as float32."""
        values = torch.empty(self.codes.shape, dtype=torch.float32, device=self.codes.device)
        flat_codes, flat_values = self.codes.flatten(), values.view(-1)
        for codes, some in zip(flat_codes.split(_CHUNK), flat_values.split(_CHUNK), strict=True):
            torch.index_select(self.codebook, 0, codes.int(), out=some)
        return values


def quantize_codebook(tensor: Tensor, method: Literal["quantile", "kmeans"]) -> CodebookTensor:
    """Quantise a float32 tensor to the nearest of 256 levels; half-way values take the lower one.

    Arguments:
        tensor: float32, any shape.
        method: "quantile" puts the levels at the quantiles (i + 1/2) / 256 of the values, "kmeans" where the mean
            squared error has a local minimum (zero for at most 256 distinct values).

    Raises:
        ValueError: the tensor is not float32, is empty, or holds NaN or infinity.
    """
    check_quantizable(tensor)
    flat = tensor.detach().flatten()
    values = np.sort(flat.cpu().numpy())
    levels = _quantiles(values, _MIDDLES) if method == "quantile" else _kmeans(values)
    codebook = torch.from_numpy(levels.astype(np.float32)).to(tensor.device)
    # In float64, where the middle of two float32 numbers is exact.
    middles = (codebook[1:].double() + codebook[:-1].double()) / 2
    codes = torch.empty(tensor.shape, dtype=torch.uint8, device=tensor.device)
    flat_codes = codes.view(-1)
    for some_codes, some in zip(flat_codes.split(_CHUNK), flat.split(_CHUNK), strict=True):
        some_codes.copy_(torch.bucketize(some.double(), middles, out_int32=True))
    return CodebookTensor(codes, codebook)


def _quantiles(values: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Quantiles of ascending float32 values `[N]` at fractions in [0, 1], linear between neighbours; float64.

    `np.quantile` would copy the values once more.
    """
    place = fractions * (len(values) - 1)
    below = place.astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above].astype(np.float64) - values[below])


def _kmeans(values: np.ndarray) -> np.ndarray:
    """Levels `[256]` by Lloyd's algorithm on ascending float32 values `[N]`; float64.

    It stops when a step hardly lowers the squared error. The start decides the result: from the quantiles, the tails
    never get levels. Squared error of 20,000 Gaussian values: 2.0e-4 from the quantiles, 3.7e-5 from this start, 0.9e-4
    with uniform levels (2026-11-23).

    Source of the start: P. F. Panter and W. Dite, "Quantization distortion in pulse-count modulation with nonuniform
    spacing of levels", 1951. The best density of levels is the cube root of the values' density.
    """
    if np.count_nonzero(values[1:] != values[:-1]) < LEVELS:
        distinct = np.unique(values)
        return np.pad(distinct, (0, LEVELS - len(distinct)), mode="edge")

    # A cell of width w with a fraction p of the values has the density p / w, so (p / w)^(1/3) w of the levels.
    edges = _quantiles(values, np.linspace(0, 1, _CELLS + 1))
    filled = np.append(0, np.cumsum(np.diff(edges) ** (2 / 3)))
    levels = np.interp(_MIDDLES * filled[-1], filled, edges)

    whole_blocks = values[: len(values) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    before = np.append(0, np.cumsum(whole_blocks.sum(axis=1, dtype=np.float64)))
    for _ in range(_STEPS):
        middles = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)  # in float64 the values would be copied
        cuts = np.concatenate([[0], np.searchsorted(values, middles, side="right"), [len(values)]])
        counts = np.diff(cuts)
        lowest, highest = values[np.minimum(cuts[:-1], len(values) - 1)], values[cuts[1:] - 1]
        means = np.diff(_sums_up_to(cuts, values, before)) / np.maximum(counts, 1)
        # Levels must stay in order, so keep each mean within its cluster whatever the sums lost to rounding.
        means = np.where(counts > 0, np.clip(means, lowest, highest), levels)
        lowered, spread = counts @ (means - levels) ** 2, counts @ (highest.astype(np.float64) - lowest) ** 2
        levels = means
        if lowered <= _TOLERANCE * spread:
            break
    return levels


def _sums_up_to(cuts: np.ndarray, values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Sum of the first `cuts[i]` values, for each i. `before[j]` is the sum of the first j blocks.

    A float64 cumulative sum of all values would take twice their memory.
    """
    block, rest = np.divmod(cuts, _BLOCK)
    within = np.arange(_BLOCK)
    last_block = np.take(values, block[:, None] * _BLOCK + within, mode="clip")
    return before[block] + np.sum(last_block, axis=1, where=within < rest[:, None], dtype=np.float64)


def with_codebooks(member: Member, levels: str) -> Member:
    """The member with its big tensors rounded to these levels, back in float32."""
    state: dict[str, Any] = dict(member.state)
    for name, tensor in member.state.items():
        if isinstance(tensor, Tensor) and is_big(tensor):
            quantized = quantize(tensor, INT8) if levels == "uniform" else quantize_codebook(tensor, levels)  # type: ignore[arg-type]
            state[name] = quantized.dequantize()
    return Member(member.info, state)


def main() -> None:
    parser: argparse.ArgumentParser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="run folder with trained members")
    arguments = parser.parse_args()
    data = load_recipe(arguments.run / "recipe.yaml").data
    members = [load_member(folder) for folder in sorted((arguments.run / "members").iterdir())]
    info = members[0].info
    batches = list(Batches(expand_shards(data.eval), info.spec, len(info.vocabulary), 256))
    rows: list[dict[str, Any]] = []
    for member in members:
        float_gap = gap(probabilities(member, batches), batches)
        row: dict[str, Any] = {"member": member.info.name, "float32": float_gap}
        for levels in ("uniform", "quantile", "kmeans"):
            row[levels] = gap(probabilities(with_codebooks(member, levels), batches), batches) - float_gap
        rows.append(row)
    publish("GAP on eval, and its change with 256 levels per tensor", rows, arguments.json)


if __name__ == "__main__":
    main()
