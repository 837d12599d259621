"""8-bit weights with a codebook of their own: 256 levels that lie where a tensor's values do, not evenly spaced.

This is for comparison. Skalic & Austin (2018) found that quantile codebooks did not help; with `vidfit quantize
--codebook` anybody can check it on their own members. What it trades away is speed: a matmul cannot run on the codes,
each weight is looked up first. `quantize.py` has the uniform levels that are the default.

Both methods sort one copy of the values; beside it, temporaries are at most a quarter of the tensor. On the sorted
values a step of k-means needs 255 searches and the sums between them: it is exact and takes a millisecond at any size,
so there is no histogram and none of its error.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidfit.quantization.uniform import finite_range

LEVELS = 256
_MIDDLES = (np.arange(LEVELS) + 0.5) / LEVELS
_CELLS = 1 << 16
_BLOCK = 256
_STEPS = 1000
_CHUNK = 1 << 16
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CodebookTensor:
    """Unsigned 8-bit codes of a float32 tensor, any shape: `value = codebook[code]`.

    Attributes:
        codes: uint8, the shape of the original.
        codebook: float32 `[256]`, ascending; levels may repeat.
    """

    codes: Tensor
    codebook: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes in a file: codes and levels."""
        return self.codes.nbytes + self.codebook.nbytes

    def dequantize(self) -> Tensor:
        """The values as float32."""
        values = torch.empty(self.codes.shape, dtype=torch.float32, device=self.codes.device)
        flat_codes, flat_values = self.codes.flatten(), values.view(-1)
        for codes, some in zip(flat_codes.split(_CHUNK), flat_values.split(_CHUNK), strict=True):
            torch.index_select(self.codebook, 0, codes.int(), out=some)
        return values


def quantize_codebook(tensor: Tensor, method: Literal["quantile", "kmeans"]) -> CodebookTensor:
    """The nearest of 256 levels for every value of a float32 tensor; half-way values take the lower level.

    Arguments:
        tensor: float32, any shape.
        method: "quantile" puts the levels at the quantiles (i + 1/2) / 256 of the values, "kmeans" where the mean
            squared error has a local minimum (zero for at most 256 distinct values).

    Raises:
        ValueError: the tensor is not float32, is empty, or holds NaN or infinity.
    """
    finite_range(tensor)
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


def _quantiles(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Quantiles of ascending float32 values `[N]` at shares in [0, 1], linear between neighbours; float64.

    `np.quantile` would copy the values once more.
    """
    place = shares * (len(values) - 1)
    below = place.astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above].astype(np.float64) - values[below])


def _kmeans(values: np.ndarray) -> np.ndarray:
    """Levels `[256]` by Lloyd's algorithm on ascending float32 values `[N]`; float64.

    It stops where a step lowers the squared error by some hundred thousandth. The start decides what it finds: from the
    quantiles themselves the tails never get their levels. 20,000 Gaussian values: error 2.0e-4 from there, 3.7e-5 from
    here, 0.9e-4 with uniform levels (2026-11-23).

    Source: the start: P. F. Panter and W. Dite, "Quantization distortion in pulse-count modulation with nonuniform
    spacing of levels", 1951: the best density of levels is the cube root of that of the values.
    """
    if np.count_nonzero(values[1:] != values[:-1]) < LEVELS:
        distinct = np.unique(values)
        return np.pad(distinct, (0, LEVELS - len(distinct)), mode="edge")

    # A cell with the share p of the values and the width w has the density p / w, so (p / w)^(1/3) w of the levels.
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
        # Within the cluster, whatever the sums lost to rounding: the levels must stay in order.
        means = np.where(counts > 0, np.clip(means, lowest, highest), levels)
        lowered, spread = counts @ (means - levels) ** 2, counts @ (highest.astype(np.float64) - lowest) ** 2
        levels = means
        if lowered <= _TOLERANCE * spread:
            break
    return levels


def _sums_up_to(cuts: np.ndarray, values: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Sum of the first `cuts[i]` values, for each i; `before[j]` is that of the first j blocks.

    A cumulative sum of all values in float64 would take twice their memory.
    """
    block, rest = np.divmod(cuts, _BLOCK)
    within = np.arange(_BLOCK)
    last_block = np.take(values, block[:, None] * _BLOCK + within, mode="clip")
    return before[block] + np.sum(last_block, axis=1, where=within < rest[:, None], dtype=np.float64)
