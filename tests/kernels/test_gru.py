"""Our GRU against PyTorch's, in float64."""

import pytest
import torch

from vidfit.kernels.gru import gru
from vidfit.models.recurrent import Layer


def test_states_and_gradients_are_pytorchs():
    torch.manual_seed(0)
    inputs_TBD, input_weights, state_weights, biases = tensors = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 3, 5), (5, 12), (4, 12), (12,))
    ]
    weights = [input_weights.T, state_weights.T, biases, torch.zeros_like(biases)]
    start = torch.zeros(1, 3, 4, dtype=torch.float64)
    expected, _ = torch.gru(inputs_TBD, start, weights, True, 1, 0.0, True, False, False)
    found = gru(inputs_TBD, input_weights, state_weights, biases)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, tensors, gradient), torch.autograd.grad(expected, tensors, gradient)
    )


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_trains_as_it_predicts(bidirectional: bool):
    layer = Layer("gru", 5, 4, bidirectional=bidirectional)
    layer.reset_parameters()
    inputs_BTD = torch.randn(3, 6, 5)
    torch.testing.assert_close(layer.train()(inputs_BTD, None), layer.eval()(inputs_BTD, None))
