"""Gradients of large matrices as the two thin matrices that they are products of.

A matrix W that the videos of a step go through, `y = x W`, has the gradient `x^T dy`: P x H numbers, which B rows of x
and of dy say as well. `ThinGradients` keeps those rows, and `Adam` (`adam.py`) builds the gradient some rows at a time,
in the cache. NetVLAD's hidden matrix of 278,528 x 1,024 then costs no 1.1 GB of gradient and no passes over it.

Shapes: B videos, P inputs, H outputs.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SMALLEST = 1 << 22  # Elements: a smaller gradient stays in the cache anyway.
BLOCK = 1 << 18  # Elements of a matrix that are worked on together, 1 MB.


class Thin(NamedTuple):
    """A gradient `x^T dy` of a matrix W.

    Attributes:
        inputs_BP: x, float32.
        outputs_BH: x W, float32.
        gradients_BH: dy, float32.
    """

    inputs_BP: Tensor
    outputs_BH: Tensor
    gradients_BH: Tensor

    def norm(self, weights_PH: Tensor, l2: float) -> Tensor:
        """Frobenius norm of `x^T dy + l2 * W`, float32 scalar, from B x B matrices and the weights' norm.

        Source: `<A, B> = tr(A^T B)`, so `||x^T dy||^2 = sum((x x^T) * (dy dy^T))` and `<x^T dy, W> = sum(dy * (x W))`.
        """
        square = ((self.inputs_BP @ self.inputs_BP.T) * (self.gradients_BH @ self.gradients_BH.T)).sum()
        if l2:
            square += 2 * l2 * (self.gradients_BH * self.outputs_BH).sum()
            square += l2**2 * torch.linalg.vector_norm(weights_PH).square()
        # Of a gradient that is next to nothing, rounding may leave a negative square.
        return square.clamp_min(0).sqrt()


class ThinGradients(TorchFunctionMode):
    """While entered, products of rows and a large matrix leave a `Thin` gradient and none in the matrix's `grad`.

    Only `x @ W` with x `[B, P]` counts; what else is done with a matrix goes to its `grad` as ever.

    Arguments:
        parameters: of a model; of them the matrices count that are large, and at least four times as long and wide as
            a step has videos (with more of them, B x B products cost more than passes over the gradient).
        videos: B of a step.
    """

    def __init__(self, parameters: Iterable[Tensor], videos: int) -> None:
        super().__init__()
        self._kept: dict[Tensor, list[Thin]] = {
            parameter: []
            for parameter in parameters
            if parameter.dim() == 2 and parameter.numel() >= SMALLEST and 4 * videos <= min(parameter.shape)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.matmul and args[1] in self._kept and args[0].dim() == 2:
            return _Product.apply(*args, self._kept[args[1]])
        return func(*args, **(kwargs or {}))

    def take(self) -> dict[Tensor, Thin]:
        """The gradients by matrix, of all backward passes since they were last taken."""
        taken = {
            weights: Thin(*map(torch.cat, zip(*kept, strict=True))) for weights, kept in self._kept.items() if kept
        }
        for kept in self._kept.values():
            kept.clear()
        return taken


class _Product(torch.autograd.Function):
    """`x @ W`; its backward pass keeps what the gradient of W is made of."""

    @staticmethod
    def forward(ctx: Any, inputs_BP: Tensor, weights_PH: Tensor, kept: list[Thin]) -> Tensor:
        outputs_BH = inputs_BP @ weights_PH
        ctx.save_for_backward(inputs_BP, weights_PH, outputs_BH)
        ctx.kept = kept
        return outputs_BH

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None]:
        inputs_BP, weights_PH, outputs_BH = (tensor.detach() for tensor in ctx.saved_tensors)
        (gradients_BH,) = grad_outputs
        ctx.kept.append(Thin(inputs_BP, outputs_BH, gradients_BH))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        # MKL takes 1.6 times as long for the whole at once.
        blocks = weights_PH.split(max(1, 4 * BLOCK // weights_PH.shape[1]))
        return torch.cat([gradients_BH @ block.T for block in blocks], dim=1), None, None
