"""Thin gradients against the ones that PyTorch makes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vidfit.kernels import factored_gradients
from vidfit.kernels.factored_gradients import FactoredGradient, FactoredGradients


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(factored_gradients, "SMALLEST", 1)


@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_the_norm_is_that_of_the_product(videos: int, inputs: int, outputs: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(videos, size, generator=generator) for size in (inputs, outputs))
    weights = torch.randn(inputs, outputs, generator=generator)
    for l2 in (0.0, 0.3):
        expected = torch.linalg.matrix_norm(x.T @ dy + l2 * weights)
        torch.testing.assert_close(
            FactoredGradient(x, x @ weights, dy).norm(weights, l2), expected, rtol=1e-4, atol=1e-4
        )


def test_products_leave_their_factors_and_pass_gradients_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(factored_gradients, "BLOCK", 60)  # blocks of 8 and of 12 rows, the last smaller
    # In float64: the last bits of float32 differ where parts are summed.
    shapes = (3, 20), (20, 30), (30, 19)
    x, first, second = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    first, second = nn.Parameter(first), nn.Parameter(second)
    x[0] = 0
    (torch.tanh(x @ first) @ second).square().sum().backward()
    expected = [first.grad, second.grad]
    first.grad = second.grad = None
    gradients = FactoredGradients([first, second], 3)
    # Two parts of the videos, as with accumulation.
    for part in (x[:2], x[2:]):
        with gradients:
            loss = (torch.tanh(part @ first) @ second).square().sum()
        loss.backward()
    assert first.grad is None
    assert second.grad is None
    taken = gradients.take()
    for weights, gradient in zip((first, second), expected, strict=True):
        assert taken[weights].inputs_BP.shape[0] == 3
        torch.testing.assert_close(taken[weights].inputs_BP.T @ taken[weights].gradients_BH, gradient)
    assert gradients.take() == {}


def test_other_products_are_left_to_autograd():
    few, cube = nn.Parameter(torch.randn(11, 30)), nn.Parameter(torch.randn(20, 30))
    gradients = FactoredGradients([few, cube], 3)
    with gradients:
        loss = (torch.randn(3, 11) @ few).sum() + (torch.randn(2, 3, 20) @ cube).sum() + (cube * 2).sum()
    loss.backward()
    assert gradients.take() == {}
    assert few.grad is not None
    assert cube.grad is not None
