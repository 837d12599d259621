"""Gradients of large matrices, kept as the two thin matrices they are products of; and Adam on them.

If the B videos of a step go through a matrix W as `y = x W`, its gradient is `x^T dy`: P x H numbers, which B rows of x
and of dy hold as well. `FactoredGradients` keeps these rows, and `adam_step` builds the gradient a block of rows at a
time, in the cache. NetVLAD's hidden matrix of 278,528 x 1,024 then needs no 1.1 GB gradient and no passes over it.

Shapes: B videos, P inputs, H outputs.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SMALLEST = 1 << 22  # Elements. The gradient of a smaller matrix stays in the cache anyway.
BLOCK = 1 << 18  # Elements of a matrix to work on at a time: 1 MB.


class FactoredGradient(NamedTuple):
    """The gradient `x^T dy` of a matrix W.

    Attributes:
        inputs_BP: x, float32.
        outputs_BH: x W, float32.
        gradients_BH: dy, float32.
    """

    inputs_BP: Tensor
    outputs_BH: Tensor
    gradients_BH: Tensor

    def norm(self, weights_PH: Tensor, l2: float) -> Tensor:
        """Frobenius norm of `x^T dy + l2 * W`, float32 scalar, from B x B matrices and the norm of W.

        Source: `<A, B> = tr(A^T B)`, so `||x^T dy||^2 = sum((x x^T) * (dy dy^T))` and `<x^T dy, W> = sum(dy * (x W))`.
        """
        square = ((self.inputs_BP @ self.inputs_BP.T) * (self.gradients_BH @ self.gradients_BH.T)).sum()
        if l2:
            square += 2 * l2 * (self.gradients_BH * self.outputs_BH).sum()
            square += l2**2 * torch.linalg.vector_norm(weights_PH).square()
        # Rounding can make the square of a tiny gradient negative.
        return square.clamp_min(0).sqrt()


class FactoredGradients(TorchFunctionMode):
    """While entered, `x @ W` with a large matrix W keeps a `FactoredGradient` and adds nothing to `W.grad`.

    This holds for x `[B, P]`. Any other use of the matrix goes to its `grad` as usual.

    Arguments:
        parameters: of a model. Large matrices count, if both sides are at least four times the number of videos: with
            more videos, B x B products cost more than passes over the gradient.
        videos: B of a step.
    """

    def __init__(self, parameters: Iterable[Tensor], videos: int) -> None:
        super().__init__()
        self._kept: dict[Tensor, list[FactoredGradient]] = {
            parameter: []
            for parameter in parameters
            if parameter.dim() == 2 and parameter.numel() >= SMALLEST and 4 * videos <= min(parameter.shape)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.matmul and args[1] in self._kept and args[0].dim() == 2:
            return _Product.apply(*args, self._kept[args[1]])
        return func(*args, **(kwargs or {}))

    def take(self) -> dict[Tensor, FactoredGradient]:
        """The gradients by matrix, of all backward passes since the last call."""
        taken = {
            weights: FactoredGradient(*map(torch.cat, zip(*kept, strict=True)))
            for weights, kept in self._kept.items()
            if kept
        }
        for kept in self._kept.values():
            kept.clear()
        return taken


def adam_step(
    weights_PH: Tensor, gradient: FactoredGradient, l2: float, max_norm: float, state: Mapping[str, Tensor], lr: float
) -> None:
    """What `training/optimizer.py` does with a whole gradient: add the L2 penalty's, clip, one step of Adam.

    Arguments:
        weights_PH: the matrix; it moves.
        gradient: its gradient.
        l2: of the penalty `l2 * 0.5 * sum W^2`.
        max_norm: the gradient, penalty included, is scaled down to this norm.
        state: `torch.optim.Adam`'s for this matrix: `step`, already counting this one, `exp_avg` and `exp_avg_sq`.
        lr: learning rate.
    """
    scale = max(1.0, (gradient.norm(weights_PH, l2) / max_norm).item())
    rows = max(1, BLOCK // weights_PH.shape[1])
    buffer = weights_PH.new_empty(rows, weights_PH.shape[1])
    for start in range(0, len(weights_PH), rows):
        part = slice(start, min(start + rows, len(weights_PH)))
        block = torch.addmm(
            weights_PH[part],
            gradient.inputs_BP[:, part].T,
            gradient.gradients_BH,
            beta=l2 / scale,
            alpha=1 / scale,
            out=buffer[: part.stop - start],
        )
        # What `torch.optim.Adam(fused=True)` calls; that takes whole parameters only.
        torch.ops.aten._fused_adam_(
            [weights_PH[part]],
            [block],
            [state["exp_avg"][part]],
            [state["exp_avg_sq"][part]],
            [],
            [state["step"]],
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class _Product(torch.autograd.Function):
    """`x @ W`. Its backward pass keeps the factors of W's gradient."""

    @staticmethod
    def forward(ctx: Any, inputs_BP: Tensor, weights_PH: Tensor, kept: list[FactoredGradient]) -> Tensor:
        outputs_BH = inputs_BP @ weights_PH
        ctx.save_for_backward(inputs_BP, weights_PH, outputs_BH)
        ctx.kept = kept
        return outputs_BH

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None]:
        inputs_BP, weights_PH, outputs_BH = (tensor.detach() for tensor in ctx.saved_tensors)
        (gradients_BH,) = grad_outputs
        ctx.kept.append(FactoredGradient(inputs_BP, outputs_BH, gradients_BH))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        # MKL takes 1.6 times as long for the whole matrix at once.
        blocks = weights_PH.split(max(1, 4 * BLOCK // weights_PH.shape[1]))
        return torch.cat([gradients_BH @ block.T for block in blocks], dim=1), None, None
