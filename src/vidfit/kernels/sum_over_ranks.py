"""A sum over the ranks of a training, through which gradients flow."""

from typing import Any

import torch
from torch import Tensor

from vidfit import distributed


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of what each rank gives. Gradients flow back to each rank's part."""
    return _Sum.apply(tensor) if distributed.world_size() > 1 else tensor  # type: ignore[return-value] - PyTorch's has no type


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        distributed.all_reduce_([total])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Each rank's loss depends on the sum, and so on this rank's part of it.
        total = gradients[0].clone()
        distributed.all_reduce_([total])
        return total
