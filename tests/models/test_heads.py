"""What heads say in half precision; their formulas are held to float64 in test_formulas.py."""

import torch

from vidfit.models.heads import Head, MixtureOfExpertsConfig


def test_probabilities_in_bfloat16_are_never_above_1():
    """Where a label is certain, the loss has the logarithm of what is left to 1."""
    torch.manual_seed(0)
    head = Head(MixtureOfExpertsConfig(experts=3), 16, 50)
    head.set_prior(torch.full((50,), 1 - 1e-7))
    gates_HCE = head.classifier.gate_weights.data.view(16, 50, 4)
    gates_HCE[..., -1] = -10  # nothing for the expert that says no
    with torch.autocast("cpu", torch.bfloat16):
        probabilities_BC = head(torch.rand(200, 16))
    assert 0.99 < probabilities_BC.min() < probabilities_BC.max() <= 1 + 1e-6
