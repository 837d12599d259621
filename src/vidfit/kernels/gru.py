"""A GRU over sequences of equal length, forward and backward, for training on a CPU.

PyTorch adds up the weights' gradients step by step. They are sums over steps, so here they wait for the end and are one
matmul. A step keeps only a `[B, 3 H]` matrix for it. The elementwise factors of the backward pass are computed for all
steps at once. The result takes two thirds of PyTorch's time. On a GPU cuDNN does the same.

With x the input's and h the state's part of a gate's sum (`models/recurrent.py` has the layout of the weights):
`r = sigmoid(x_r + h_r)`, `z = sigmoid(x_z + h_z)`, `n = tanh(x_n + r * h_n)`, `state = n + z * (state - n)`.

Shapes: T frames, B videos, D features, H cells, G = 3 H gates in the order r, z, n.
"""

from typing import Any

import torch
from torch import Tensor


def gru(inputs_TBD: Tensor, input_weights_DG: Tensor, state_weights_HG: Tensor, biases_G: Tensor) -> Tensor:
    """The state after each frame, starting from zeros.

    Arguments:
        inputs_TBD: float32.
        input_weights_DG: float32.
        state_weights_HG: float32.
        biases_G: float32, added to the input's part.

    Returns:
        float32 `[T, B, H]`.
    """
    return _GRU.apply(inputs_TBD, input_weights_DG, state_weights_HG, biases_G)


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs_TBD: Tensor, input_weights_DG: Tensor, state_weights_HG: Tensor, biases_G: Tensor
    ) -> Tensor:
        frames, batch, _ = inputs_TBD.shape
        cells = len(state_weights_HG)
        # Becomes r, z and n in place.
        gates_TBG = (inputs_TBD.flatten(0, 1) @ input_weights_DG).add_(biases_G).unflatten(0, (frames, batch))
        states_TBH = inputs_TBD.new_zeros(frames + 1, batch, cells)
        hidden_TBH = inputs_TBD.new_empty(frames, batch, cells)
        for gates_BG, hidden_BH, state_BH, next_BH in zip(
            gates_TBG, hidden_TBH, states_TBH[:-1], states_TBH[1:], strict=True
        ):
            product_BG = state_BH @ state_weights_HG
            hidden_BH.copy_(product_BG[:, 2 * cells :])
            r_BH, z_BH = gates_BG[:, : 2 * cells].add_(product_BG[:, : 2 * cells]).sigmoid_().chunk(2, dim=1)
            n_BH = gates_BG[:, 2 * cells :].addcmul_(r_BH, hidden_BH).tanh_()
            torch.lerp(n_BH, state_BH, z_BH, out=next_BH)
        ctx.save_for_backward(inputs_TBD, input_weights_DG, state_weights_HG, gates_TBG, states_TBH, hidden_TBH)
        return states_TBH[1:]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs_TBD, input_weights_DG, state_weights_HG, gates_TBG, states_TBH, hidden_TBH = ctx.saved_tensors
        (outputs_TBH,) = grad_outputs
        cells = len(state_weights_HG)
        r_TBH, z_TBH, n_TBH = gates_TBG.chunk(3, dim=2)
        # Derivatives of the state by the sums inside tanh and z's sigmoid, and of tanh's sum by r's.
        by_n_TBH = (1 - z_TBH) * (1 - n_TBH.square())
        by_z_TBH = (states_TBH[:-1] - n_TBH) * z_TBH * (1 - z_TBH)
        by_r_TBH = hidden_TBH * r_TBH * (1 - r_TBH)
        # Gradients of the input's and of the state's part of the sums. They differ only in n.
        input_TBG, state_TBG = torch.empty_like(gates_TBG), torch.empty_like(gates_TBG)
        gradient_BH = torch.zeros_like(states_TBH[0])
        for t in reversed(range(len(inputs_TBD))):
            gradient_BH += outputs_TBH[t]
            r_BH, z_BH, n_BH = input_TBG[t].chunk(3, dim=1)
            torch.mul(gradient_BH, by_n_TBH[t], out=n_BH)
            torch.mul(gradient_BH, by_z_TBH[t], out=z_BH)
            torch.mul(n_BH, by_r_TBH[t], out=r_BH)
            state_TBG[t, :, : 2 * cells] = input_TBG[t, :, : 2 * cells]
            torch.mul(n_BH, r_TBH[t], out=state_TBG[t, :, 2 * cells :])
            gradient_BH = torch.addmm(gradient_BH * z_TBH[t], state_TBG[t], state_weights_HG.T)
        inputs_ND, input_NG, state_NG = inputs_TBD.flatten(0, 1), input_TBG.flatten(0, 1), state_TBG.flatten(0, 1)
        return (
            (input_NG @ input_weights_DG.T).view_as(inputs_TBD) if ctx.needs_input_grad[0] else None,
            inputs_ND.T @ input_NG,
            states_TBH[:-1].flatten(0, 1).T @ state_NG,
            input_NG.sum(0),
        )
