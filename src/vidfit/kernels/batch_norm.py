"""Batch norm in training, made fast: as `models/batch_norm.py`, in blocks that fit the cache and with its own backward.

Without weights and on one rank PyTorch's own kernel does it.

Shapes: D features, N values.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit import distributed

# Elements that a CPU works on at a time: 1 MB.
_BLOCK = 1 << 18

MoveRunning = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Mean, variance and total weight of a batch -> the mean and variance to normalise it with."""


def batch_norm(norm: nn.BatchNorm1d, input: Tensor, frame_weights: Tensor | None, move_running: MoveRunning) -> Tensor:
    """`(input - mean) / sqrt(variance + eps) * weight + bias` with the batch's statistics.

    Arguments:
        norm: the layer, in training mode; its running statistics move.
        input: `[..., D]`.
        frame_weights: `[...]`, how many times each position counts. None means once each.
        move_running: called once with the batch's statistics.
    """
    values_ND = input.flatten(0, -2)
    if frame_weights is not None or distributed.world_size() > 1:
        values_ND = values_ND.to(norm.weight.dtype)
        weights_N = values_ND.new_ones(len(values_ND)) if frame_weights is None else frame_weights.flatten()
        arguments = values_ND, weights_N.to(values_ND.dtype), norm.weight, norm.bias, norm.eps, move_running
        return _WeightedBatchNorm.apply(*arguments).view_as(input)  # type: ignore[union-attr] - PyTorch's has no type
    normalised_ND = F.batch_norm(
        values_ND,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        training=len(values_ND) > 1,
        momentum=norm.momentum or 0.0,
        eps=norm.eps,
    )
    return normalised_ND.view_as(input)


def weighted_sum(values_ND: Tensor, weights_N: Tensor) -> Tensor:
    """`sum_n weights_n * values_n`, never in half precision."""
    with torch.autocast(values_ND.device.type, enabled=False):
        return weights_N @ values_ND


class _WeightedBatchNorm(torch.autograd.Function):
    """The gradient of a value with weight w is the sum of the gradients of w copies of it."""

    @staticmethod
    def forward(
        ctx: Any,
        values_ND: Tensor,
        weights_N: Tensor,
        weight_D: Tensor,
        bias_D: Tensor,
        eps: float,
        move_running: MoveRunning,
    ) -> Tensor:
        sums = torch.cat([weighted_sum(values_ND, weights_N), weights_N.sum()[None]])
        distributed.all_reduce_([sums])
        total, mean_D = sums[-1], sums[:-1] / sums[-1]
        squares_D = torch.zeros_like(mean_D)
        for values, weights in _blocks(values_ND, weights_N):
            squares_D += weighted_sum((values - mean_D).square_(), weights)
        distributed.all_reduce_([squares_D])
        mean_D, variance_D = move_running(mean_D, squares_D / total, total)
        inverse_D = torch.rsqrt(variance_D + eps)
        outputs_ND = torch.empty_like(values_ND)
        for values, outputs in _blocks(values_ND, outputs_ND):
            torch.addcmul(bias_D - mean_D * inverse_D * weight_D, values, inverse_D * weight_D, out=outputs)
        shares_N = torch.where(total > 1, weights_N / total, 0)
        ctx.save_for_backward(values_ND, shares_N, weight_D, mean_D, inverse_D)
        return outputs_ND

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        values_ND, shares_N, weight_D, mean_D, inverse_D = ctx.saved_tensors
        (gradients_ND,) = grad_outputs
        sums_2D = torch.zeros(2, len(weight_D), dtype=weight_D.dtype, device=weight_D.device)
        for values, gradients in _blocks(values_ND, gradients_ND):
            sums_2D[0] += gradients.sum(0)
            sums_2D[1] += ((values - mean_D) * gradients).sum(0)
        sums_2D[1] *= inverse_D
        bias_gradient_D, weight_gradient_D = sums_2D.clone()
        distributed.all_reduce_([sums_2D])
        # For a value x with share c of the total weight: `weight / std * (dy - c * (sum dy + x^ * sum(dy * x^)))`.
        slope_D = sums_2D[1] * inverse_D
        level_D = sums_2D[0] - mean_D * slope_D
        factor_D = weight_D * inverse_D
        results_ND = torch.empty_like(values_ND)
        for values, gradients, shares, results in _blocks(values_ND, gradients_ND, shares_N[:, None], results_ND):
            torch.addcmul(level_D, values, slope_D, out=results).mul_(-shares).add_(gradients).mul_(factor_D)
        return results_ND, None, weight_gradient_D, bias_gradient_D, None, None


def _blocks(values_ND: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows that fit the CPU's cache. On a GPU all rows at once: launching a kernel takes longer."""
    rows = max(1, _BLOCK // values_ND.shape[1] if values_ND.device.type == "cpu" else len(values_ND))
    return zip(*(tensor.split(rows) for tensor in (values_ND, *others)), strict=True)
