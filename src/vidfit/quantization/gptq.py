"""Error-compensated rounding: what one weight loses by rounding, the weights not yet rounded make up for.

Inputs of a layer are correlated, so an error in one row of its matrix can be undone in others. Rows are rounded one
after another, and each one's error is pushed onto the rest through the inverse of the inputs' second moments. The
moments of all inputs of a NetVLAD's hidden layer (10^5 of them) do not exist as a matrix: `Moments` splits the inputs
into blocks, between which nothing is compensated. Blocks of one input each are plain rounding.

Shapes: N samples, I inputs, O outputs, G groups of inputs with a scale, K blocks (clusters) of D inputs (features).
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Rows between which errors travel one by one; onto all further rows they do so together, in one matmul.
_LAZY = 64
# Elements of the largest temporary.
_ELEMENTS = 1 << 26
_LEAST_DAMPING = 0.01


@dataclass(frozen=True)
class Moments:
    """Samples of what a weight matrix is multiplied with, and which inputs' second moments count together.

    Attributes:
        inputs: float16 `[N, I]`.
        parts: (K, D) of consecutive parts of the inputs: K blocks of D inputs each. One part (1, I) is the full second
            moment, (I, 1) its diagonal.
    """

    inputs: Tensor
    parts: tuple[tuple[int, int], ...]

    @cached_property
    def factors(self) -> tuple[Tensor, ...]:
        """Of each part the upper Cholesky factors of its blocks' inverse moments, damped; float32 `[K, D, D]`.

        They are kept, because a matrix is rounded at several widths.
        """
        factors, start = [], 0
        for blocks, features in self.parts:
            inputs_NKD = self.inputs[:, start : start + blocks * features].unflatten(1, (blocks, features))
            start += blocks * features
            factors_KDD = torch.empty(blocks, features, features, device=self.inputs.device)
            step = max(1, _ELEMENTS // (features * max(features, len(inputs_NKD))))
            for first in range(0, blocks, step):
                some = slice(first, first + step)
                factors_KDD[some] = _inverse_factor(inputs_NKD[:, some].transpose(0, 1).float())
            factors.append(factors_KDD)
        return tuple(factors)

    def diagonal(self) -> Tensor:
        """Mean square of each input, float64 `[I]`."""
        return torch.cat([part.float().square().mean(0).double() for part in self.inputs.split(1024, dim=1)])


def round_compensated(
    weights_IO: Tensor, low_GO: Tensor, scale_GO: Tensor, group: int, bits: int, moments: Moments
) -> Tensor:
    """Levels whose outputs `X W`, not whose weights, are near the original's.

    Arguments:
        weights_IO: float32.
        low_GO: value of the lowest level, `[G, O]`, or `[1, 1]` for one scale.
        scale_GO: distance of neighbouring levels.
        group: inputs that share a scale.
        bits: there are `2 ** bits` levels.
        moments: of the inputs.

    Returns:
        uint8 `[I, O]`, numbers of the levels.

    Source: E. Frantar, D. Alistarh, "Optimal Brain Compression", 2022, eq. 3; in order of the rows, and with the
    Cholesky factor of the inverse, as in E. Frantar et al., "GPTQ", 2023, eq. 2 and 3 and algorithm 1. The factor 2 of
    H = 2 X^T X cancels.
    """
    assert sum(blocks * features for blocks, features in moments.parts) == len(weights_IO) == moments.inputs.shape[1]
    low_GO, scale_GO = low_GO.float(), scale_GO.float()
    levels_IO = torch.empty(weights_IO.shape, dtype=torch.uint8, device=weights_IO.device)
    start = 0
    for (blocks, features), factors_KDD in zip(moments.parts, moments.factors, strict=True):
        own = slice(start, start + blocks * features)
        weights_KDO = weights_IO[own].unflatten(0, (blocks, features))
        levels_KDO = levels_IO[own].view_as(weights_KDO)
        groups_KD = (torch.arange(own.start, own.stop, device=weights_IO.device) // group).view(blocks, features)
        step = max(1, _ELEMENTS // (features * weights_IO.shape[1]))
        for first in range(0, blocks, step):
            some = slice(first, first + step)
            levels_KDO[some] = _round_block(
                weights_KDO[some].clone(), factors_KDD[some], low_GO, scale_GO, groups_KD[some], bits
            )
        start = own.stop
    return levels_IO


def damping(features: int, samples: int) -> float:
    """Share of the mean second moment that is added to each of a block.

    Moments of few samples are mostly noise, and to compensate for noise does harm: 1,024 samples of 1,152 inputs with
    GPTQ's hundredth gave up to twice the KL divergence of rounding to nearest, with this no more or a third less.
    """
    return max(_LEAST_DAMPING, features / (2 * samples))


def _inverse_factor(inputs_KND: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of each block's damped second moments, float32 `[K, D, D]`."""
    moments_KDD = inputs_KND.mT @ inputs_KND
    diagonal_KD = moments_KDD.diagonal(dim1=1, dim2=2)
    samples, features = inputs_KND.shape[1:]
    damping_K1 = damping(features, samples) * diagonal_KD.mean(1, keepdim=True)
    # A block without any input: every rounding is as good.
    diagonal_KD += damping_K1.masked_fill(damping_K1 == 0, 1)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments_KDD)), upper=True)


def _round_block(
    weights_KDO: Tensor, inverse_KDD: Tensor, low_GO: Tensor, scale_GO: Tensor, groups_KD: Tensor, bits: int
) -> Tensor:
    """uint8 `[K, D, O]`; the weights are overwritten."""
    blocks, features, outputs = weights_KDO.shape
    levels_KDO = torch.empty(blocks, features, outputs, dtype=torch.uint8, device=weights_KDO.device)
    divisor_GO = scale_GO.masked_fill(scale_GO == 0, torch.inf)
    for begin in range(0, features, _LAZY):
        end = min(begin + _LAZY, features)
        errors_KSO = torch.empty(blocks, end - begin, outputs, device=weights_KDO.device)
        for row in range(begin, end):
            values_KO, groups_K = weights_KDO[:, row], groups_KD[:, row] if len(low_GO) > 1 else slice(None)
            low_KO = low_GO[groups_K]
            level_KO = ((values_KO - low_KO) / divisor_GO[groups_K]).sub_(0.5).ceil_().clamp_(0, 2**bits - 1)
            levels_KDO[:, row] = level_KO
            rounded_KO = level_KO.mul_(scale_GO[groups_K]).add_(low_KO)
            error_KO = (values_KO - rounded_KO).div_(inverse_KDD[:, row, row, None])
            errors_KSO[:, row - begin] = error_KO
            weights_KDO[:, row + 1 : end].baddbmm_(
                inverse_KDD[:, row, row + 1 : end, None], error_KO[:, None], alpha=-1
            )
        weights_KDO[:, end:].baddbmm_(inverse_KDD[:, begin:end, end:].mT, errors_KSO, alpha=-1)
    return levels_KDO
