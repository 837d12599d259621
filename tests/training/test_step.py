"""One step: what Adam gets to see."""

import pytest
import torch

from vidfit.training.step import clip_each_


def test_every_gradient_is_clipped_by_itself():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for parameter, gradient in zip(parameters, ([3.0, 4.0], [0.3, 0.4], [0.0, 0.0]), strict=True):
        parameter.grad = torch.tensor(gradient)
    clip_each_(parameters, 1.0)
    found = [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]
    assert found == [pytest.approx([0.6, 0.8]), pytest.approx([0.3, 0.4]), [0.0, 0.0]]
