"""GPTQ: round weights so that the layer's outputs change least, not the weights themselves.

A layer's inputs are correlated, so other rows of its matrix can undo the error of one rounded row. GPTQ rounds rows one
after another. It pushes each row's error onto the rows that are left, through the inverse of the Hessian `X^T X`.

NetVLAD's hidden layer has 10^5 inputs, and a Hessian of that size does not fit in memory. So `LayerInputs` splits the
inputs into blocks, and errors stay within their block. Blocks of one input each are plain rounding to nearest.

Shapes: N samples, I inputs, O outputs, K blocks (clusters) of D inputs (features).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Within this many rows errors are pushed row by row; to later rows they go together, in one matmul.
_LAZY = 64
# Elements of the largest temporary.
_ELEMENTS = 1 << 26
_LEAST_DAMPING = 0.01


@dataclass(frozen=True)
class LayerInputs:
    """Samples of what a weight matrix is multiplied with, and how they split into blocks.

    Attributes:
        samples: float16 `[N, I]`.
        parts: (K, D) of consecutive parts of the inputs: K blocks of D inputs each. One part (1, I) is the full
            Hessian, (I, 1) its diagonal.
    """

    samples: Tensor
    parts: tuple[tuple[int, int], ...]

    @cached_property
    def factors(self) -> tuple[Tensor, ...]:
        """For each part, upper Cholesky factors of its blocks' inverse Hessians, damped; float32 `[K, D, D]`.

        Kept, because one matrix is rounded at several bit widths.
        """
        factors, start = [], 0
        for blocks, features in self.parts:
            samples_NKD = self.samples[:, start : start + blocks * features].unflatten(1, (blocks, features))
            start += blocks * features
            factors_KDD = torch.empty(blocks, features, features, device=self.samples.device)
            step = max(1, _ELEMENTS // (features * max(features, len(samples_NKD))))
            for first in range(0, blocks, step):
                some = slice(first, first + step)
                factors_KDD[some] = _inverse_factor(samples_NKD[:, some].transpose(0, 1).float())
            factors.append(factors_KDD)
        return tuple(factors)


def round_with_gptq(weights_IO: Tensor, low_1O: Tensor, scale_1O: Tensor, bits: int, inputs: LayerInputs) -> Tensor:
    """Levels that keep the outputs `X W` near the original's.

    Arguments:
        weights_IO: float32.
        low_1O: value of the lowest level, `[1, O]`, or `[1, 1]` for one scale.
        scale_1O: distance between neighbouring levels, in the same shape.
        bits: bit width; there are `2 ** bits` levels.
        inputs: samples of X.

    Returns:
        uint8 `[I, O]`, numbers of the levels.

    Source: E. Frantar and D. Alistarh, "Optimal Brain Compression", 2022, eq. 3. Rows in order and the Cholesky factor
    of the inverse: E. Frantar et al., "GPTQ", 2023, eq. 2, eq. 3 and algorithm 1. The factor 2 of H = 2 X^T X cancels.
    """
    assert sum(blocks * features for blocks, features in inputs.parts) == len(weights_IO) == inputs.samples.shape[1]
    low_1O, scale_1O = low_1O.float(), scale_1O.float()
    levels_IO = torch.empty(weights_IO.shape, dtype=torch.uint8, device=weights_IO.device)
    start = 0
    for (blocks, features), factors_KDD in zip(inputs.parts, inputs.factors, strict=True):
        part = slice(start, start + blocks * features)
        weights_KDO = weights_IO[part].unflatten(0, (blocks, features))
        levels_KDO = levels_IO[part].view_as(weights_KDO)
        step = max(1, _ELEMENTS // (features * weights_IO.shape[1]))
        for first in range(0, blocks, step):
            some = slice(first, first + step)
            levels_KDO[some] = _round_blocks(weights_KDO[some].clone(), factors_KDD[some], low_1O, scale_1O, bits)
        start = part.stop
    return levels_IO


def damping(features: int, samples: int) -> float:
    """Fraction of the Hessian's mean diagonal that is added to the diagonal of each block.

    A Hessian of few samples is mostly noise, and compensating for noise does harm. With 1,024 samples of 1,152 inputs,
    GPTQ's 0.01 gave up to twice the KL divergence of rounding to nearest. With this formula it was equal or up to a
    third lower.
    """
    return max(_LEAST_DAMPING, features / (2 * samples))


def _inverse_factor(samples_KND: Tensor) -> Tensor:
    """Upper Cholesky factor of each block's inverse damped Hessian, float32 `[K, D, D]`."""
    hessian_KDD = samples_KND.mT @ samples_KND
    diagonal_KD = hessian_KDD.diagonal(dim1=1, dim2=2)
    samples, features = samples_KND.shape[1:]
    damping_K1 = damping(features, samples) * diagonal_KD.mean(1, keepdim=True)
    # A block whose inputs are all 0: any rounding is as good.
    diagonal_KD += damping_K1.masked_fill(damping_K1 == 0, 1)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian_KDD)), upper=True)


def _round_blocks(weights_KDO: Tensor, inverse_KDD: Tensor, low_1O: Tensor, scale_1O: Tensor, bits: int) -> Tensor:
    """uint8 levels `[K, D, O]`. Overwrites the weights."""
    blocks, features, outputs = weights_KDO.shape
    levels_KDO = torch.empty(blocks, features, outputs, dtype=torch.uint8, device=weights_KDO.device)
    divisor_1O = scale_1O.masked_fill(scale_1O == 0, torch.inf)
    for begin in range(0, features, _LAZY):
        end = min(begin + _LAZY, features)
        errors_KSO = torch.empty(blocks, end - begin, outputs, device=weights_KDO.device)
        for row in range(begin, end):
            values_KO = weights_KDO[:, row]
            level_KO = ((values_KO - low_1O) / divisor_1O).sub_(0.5).ceil_().clamp_(0, 2**bits - 1)
            levels_KDO[:, row] = level_KO
            rounded_KO = level_KO.mul_(scale_1O).add_(low_1O)
            error_KO = (values_KO - rounded_KO).div_(inverse_KDD[:, row, row, None])
            errors_KSO[:, row - begin] = error_KO
            weights_KDO[:, row + 1 : end].baddbmm_(
                inverse_KDD[:, row, row + 1 : end, None], error_KO[:, None], alpha=-1
            )
        weights_KDO[:, end:].baddbmm_(inverse_KDD[:, begin:end, end:].mT, errors_KSO, alpha=-1)
    return levels_KDO
