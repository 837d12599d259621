"""The loss and its gradient against the reference vectors."""

import math

import numpy as np
import pytest
import torch

from vidfit.training.losses import cross_entropy


def test_golden_cross_entropy(golden_dir):
    vectors = np.load(golden_dir / "losses.npz")
    cases = sorted({key.split("/")[0] for key in vectors})
    assert cases
    for case in cases:
        probabilities = torch.from_numpy(vectors[f"{case}/predictions"]).requires_grad_()
        loss = cross_entropy(probabilities, torch.from_numpy(vectors[f"{case}/labels"]).float())
        assert loss.item() == pytest.approx(float(vectors[f"{case}/CrossEntropyLoss"]), rel=1e-5)
        loss.backward()
        assert probabilities.grad is not None
        # Without a teacher's share the mixed loss is this one.
        expected = vectors[f"{case}/MixedCrossEntropyLoss_0_grad"]
        np.testing.assert_allclose(probabilities.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_certainty_costs_the_epsilon_and_not_infinity():
    wrong = cross_entropy(torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, 0.0]]).double())
    assert wrong.item() == pytest.approx(-2 * math.log(1e-5), abs=1e-9)


def test_sum_over_classes_mean_over_videos():
    probabilities, labels = torch.rand(3, 7, dtype=torch.float64), (torch.rand(3, 7) < 0.5).double()
    one = cross_entropy(probabilities, labels)
    assert cross_entropy(probabilities.repeat(2, 1), labels.repeat(2, 1)).item() == pytest.approx(one.item())
    assert cross_entropy(probabilities.repeat(1, 2), labels.repeat(1, 2)).item() == pytest.approx(2 * one.item())
