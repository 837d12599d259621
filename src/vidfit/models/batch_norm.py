"""Batch norm with frame weights: padding does not count, and a frame drawn twice counts twice.

It has the original's constants: epsilon is 1e-3, and running statistics move by 0.001 per step (a recipe may set
another momentum). It normalises with the biased variance and keeps the unbiased one. A batch with a single value has
no variance, so the running statistics normalise it and stay unchanged, where PyTorch raises an error. When several
ranks train together, statistics cover the frames of all ranks.

Shapes: D features, N values.

Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), algorithm 1.
"""

import torch
from torch import Tensor, nn

from vidfit.kernels.batch_norm import batch_norm, weighted_sum
from vidfit.kernels.sum_over_ranks import sum_over_ranks

EPSILON = 1e-3


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis.

    Arguments:
        size: length of the last axis.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=EPSILON, momentum=1e-3)

    def forward(self, input: Tensor, frame_weights: Tensor | None = None) -> Tensor:
        """`(input - mean) / sqrt(variance + eps) * weight + bias`.

        Arguments:
            input: float32 `[..., D]`. Outputs at positions with weight 0 are undefined; ignore them.
            frame_weights: `[...]`, how many times each position counts. None means once each.
        """
        if self.training:
            return batch_norm(self, input, frame_weights, self.move_running)
        scale_D, shift_D = self.folded()
        return input * scale_D + shift_D

    def scale_and_shift(self, input: Tensor, frame_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer as `input * scale + shift`, both float32 `[D]`. In training this moves the running statistics."""
        if not self.training:
            return self.folded()
        return self._affine(*self.move_running(*self.statistics(input, frame_weights)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Scale and shift with the running statistics, as in eval mode."""
        assert self.running_mean is not None
        assert self.running_var is not None
        return self._affine(self.running_mean, self.running_var)

    def _affine(self, mean_D: Tensor, variance_D: Tensor) -> tuple[Tensor, Tensor]:
        scale_D = self.weight * torch.rsqrt(variance_D + self.eps)
        return scale_D, self.bias - mean_D * scale_D

    def statistics(self, input: Tensor, frame_weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted mean and biased variance, `[D]`, and the total weight, a scalar; over all ranks."""
        values_ND = input.flatten(0, -2).to(self.weight.dtype)
        weights_N = values_ND.new_ones(len(values_ND)) if frame_weights is None else frame_weights.flatten()
        weights_N = weights_N.to(values_ND.dtype)
        total = sum_over_ranks(weights_N.sum())
        mean_D = sum_over_ranks(weighted_sum(values_ND, weights_N)) / total
        variance_D = sum_over_ranks(weighted_sum((values_ND - mean_D).square(), weights_N)) / total
        return mean_D, variance_D, total

    def move_running(self, mean_D: Tensor, variance_D: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Move the running statistics towards a batch's; returns the mean and variance to normalise the batch with.

        A batch with a total weight of 1 leaves them alone and is normalised with them. The test for that stays on the
        device: a Python `if` would wait for a GPU.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        several = total > 1
        mean_D = torch.where(several, mean_D, self.running_mean)
        variance_D = torch.where(several, variance_D, self.running_var)
        unbiased_D = torch.where(several, variance_D * total / (total - 1).clamp_min(1), variance_D)
        moved = torch.where(several, self.momentum or 0.0, 0.0)
        self.running_mean.lerp_(mean_D.detach(), moved)
        self.running_var.lerp_(unbiased_D.detach(), moved)
        return mean_D, variance_D
