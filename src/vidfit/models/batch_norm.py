"""Batch norm over real frames, each as often as it was drawn.

It has the original's constants: the running statistics move by 0.001 a step (decay 0.999), epsilon is 1e-3, it
normalises with the biased variance and keeps the unbiased one. A batch of a single value has no variance: it is
normalised with the running statistics and leaves them alone, where PyTorch would raise an error. Where several ranks
train together, the statistics are those of all their frames, as one process with the same batch would have them.

Shapes: B videos, T frames, D features, N frames of all videos together.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit import distributed

# Elements of a tensor that a CPU works on together, 1 MB.
_BLOCK = 1 << 18


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis, with statistics of real frames only.

    Arguments:
        size: length of the last axis.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-3, momentum=1e-3)

    def forward(self, input: Tensor, counts: Tensor | None = None) -> Tensor:
        """Normalises float32 `[..., size]`.

        Arguments:
            input: what becomes of slots that do not count is the caller's affair.
            counts: `[...]`, how often each slot counts; None that each does once.
        """
        if not self.training:
            scale, shift = self._affine(self.running_mean, self.running_var)
            return input * scale + shift
        values_ND, counts_N = input.flatten(0, -2), None if counts is None else counts.flatten()
        if counts_N is None and distributed.count() == 1:
            normalised_ND = F.batch_norm(
                values_ND,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=len(values_ND) > 1,
                momentum=self.momentum or 0.0,
                eps=self.eps,
            )
        else:
            normalised_ND = _Counted.apply(values_ND, counts_N, self.weight, self.bias, self)
        return normalised_ND.view_as(input)

    def fold(self, frames: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer as `frames * scale + shift`.

        All that a family does with the normalised input is linear in it, so scale and shift can be applied to the
        `[D, K]` weights and sums instead: the normalised frames and, where the frames need none, their gradient, by far
        the largest tensors of a training step, are never made.

        Arguments:
            frames: float32 `[B, T, D]`.
            counts: `[B, T]` or None, as in `forward`.

        Returns:
            scale and shift, float32 `[D]`.
        """
        if not self.training:
            return self._affine(self.running_mean, self.running_var)
        values_ND = frames.flatten(0, -2)
        if counts is None and distributed.count() == 1 and len(values_ND) > 1 and not frames.requires_grad:
            # One pass; `torch.var_mean` over the first axis takes 17 times as long on a CPU.
            return self._affine(
                *torch.batch_norm_update_stats(values_ND, self.running_mean, self.running_var, self.momentum or 0.0)
            )
        values_ND, counts_N = _counted(values_ND, None if counts is None else counts.flatten(), self)
        count = distributed.added(counts_N.sum())
        mean_D = distributed.added(_sum(values_ND, counts_N)) / count
        variance_D = distributed.added(_sum((values_ND - mean_D).square(), counts_N)) / count
        return self._affine(*self.moved(mean_D, variance_D, count))

    def moved(self, mean_D: Tensor, variance_D: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Moves the running statistics by those of `count` values; returns what these values are normalised with.

        A single value leaves the running statistics alone and is normalised with them. That is decided without looking
        at the number, which would wait for the device.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        several = count > 1
        mean_D = torch.where(several, mean_D, self.running_mean)
        variance_D = torch.where(several, variance_D, self.running_var)
        unbiased_D = torch.where(several, variance_D * count / (count - 1).clamp_min(1), variance_D)
        moved = torch.where(several, self.momentum or 0.0, 0.0)
        self.running_mean.lerp_(mean_D.detach(), moved)
        self.running_var.lerp_(unbiased_D.detach(), moved)
        return mean_D, variance_D

    def _affine(self, mean: Tensor | None, variance: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mean is not None
        assert variance is not None
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale


class _Counted(torch.autograd.Function):
    """Batch norm in training of values that count more or less often, on all ranks together.

    Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3, with each value repeated as often as it counts. The
    gradient of a value is that of all its repetitions.
    """

    @staticmethod
    def forward(
        ctx: Any, values_ND: Tensor, counts_N: Tensor | None, weight_D: Tensor, bias_D: Tensor, norm: BatchNorm
    ) -> Tensor:
        values_ND, counts_N = _counted(values_ND, counts_N, norm)
        sums = torch.cat([_sum(values_ND, counts_N), counts_N.sum()[None]])
        distributed.add_([sums])
        count, mean_D = sums[-1], sums[:-1] / sums[-1]
        squares_D = torch.zeros_like(mean_D)
        for values, counts in _blocks(values_ND, counts_N):
            squares_D += _sum((values - mean_D).square_(), counts)
        distributed.add_([squares_D])
        mean_D, variance_D = norm.moved(mean_D, squares_D / count, count)
        inverse_D = torch.rsqrt(variance_D + norm.eps)
        outputs_ND = torch.empty_like(values_ND)
        for values, outputs in _blocks(values_ND, outputs_ND):
            torch.addcmul(bias_D - mean_D * inverse_D * weight_D, values, inverse_D * weight_D, out=outputs)
        shares_N = torch.where(count > 1, counts_N / count, 0)
        ctx.save_for_backward(values_ND, shares_N, weight_D, mean_D, inverse_D)
        return outputs_ND

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        values_ND, shares_N, weight_D, mean_D, inverse_D = ctx.saved_tensors
        (gradients_ND,) = grad_outputs
        sums_2D = torch.zeros(2, len(weight_D), dtype=weight_D.dtype, device=weight_D.device)
        for values, gradients in _blocks(values_ND, gradients_ND):
            sums_2D[0] += gradients.sum(0)
            sums_2D[1] += ((values - mean_D) * gradients).sum(0)
        sums_2D[1] *= inverse_D
        of_bias_D, of_weight_D = sums_2D.clone()
        distributed.add_([sums_2D])
        # For a value x of share c: `w / std (dy - c (sum dy + x^ sum(dy x^)))`.
        slope_D = sums_2D[1] * inverse_D
        level_D = sums_2D[0] - mean_D * slope_D
        factor_D = weight_D * inverse_D
        results_ND = torch.empty_like(values_ND)
        for values, gradients, shares, results in _blocks(values_ND, gradients_ND, shares_N[:, None], results_ND):
            torch.addcmul(level_D, values, slope_D, out=results).mul_(-shares).add_(gradients).mul_(factor_D)
        return results_ND, None, of_weight_D, of_bias_D, None


def _counted(values_ND: Tensor, counts_N: Tensor | None, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Values and how often each counts, in the precision of the layer."""
    values_ND = values_ND.to(norm.weight.dtype)
    return values_ND, values_ND.new_ones(len(values_ND)) if counts_N is None else counts_N.to(values_ND.dtype)


def _sum(values_ND: Tensor, counts_N: Tensor) -> Tensor:
    """The sum of the rows, each as often as it counts; never in half precision."""
    with torch.autocast(values_ND.device.type, enabled=False):
        return counts_N @ values_ND


def _blocks(values_ND: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows that the cache holds, of all; on a GPU all at once, where a kernel's launch takes longer than a block."""
    rows = max(1, _BLOCK // values_ND.shape[1] if values_ND.device.type == "cpu" else len(values_ND))
    return zip(*(tensor.split(rows) for tensor in (values_ND, *others)), strict=True)
