"""The fast dropout against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfit.kernels.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_values_are_dropped_with_their_probability(p: float):
    torch.manual_seed(1)
    dropped = (Dropout(p)(torch.ones(1000, 1000)) == 0).float()
    # Five standard deviations of a mean over 10^6 draws; a bias of 1/65,536 is below one.
    assert abs(dropped.mean().item() - p) < 5 * (p * (1 - p) / 1e6) ** 0.5
    # Neighbours, which share 64 random bits, are independent.
    together = (dropped[:, :-1] * dropped[:, 1:]).mean().item()
    assert abs(together - p * p) < 0.005


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.floats(0, 0.99))
@settings(max_examples=50, deadline=None)
def test_kept_values_are_scaled_and_so_are_gradients(shape: list[int], p: float):
    values = torch.rand(*shape, dtype=torch.float64) + 1
    values.requires_grad_()
    result = Dropout(p)(values)
    result.sum().backward()
    kept = (result != 0).double() / (1 - p)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, values * kept)
    torch.testing.assert_close(values.grad, kept)


def test_nothing_is_dropped_in_evaluation():
    values = torch.rand(7, 3)
    assert torch.equal(Dropout(0.5).eval()(values), values)


def test_the_seed_fixes_the_mask():
    values = torch.rand(100, 33)
    torch.manual_seed(5)
    first = Dropout(0.4)(values)
    torch.manual_seed(5)
    assert torch.equal(first, Dropout(0.4)(values))
