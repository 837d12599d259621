"""Batch norm of values that count more or less often; batch norm folded into what follows: against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vidfit.models.batch_norm import BatchNorm

COUNTS_BT = torch.tensor([[1, 2, 1, 1, 3, 1], [1, 0, 0, 0, 0, 0], [0, 2, 1, 0, 0, 4], [1, 1, 1, 1, 1, 0]])


def random_norm() -> tuple[BatchNorm, dict[str, Tensor]]:
    """A layer of five features, and a copy of its state."""
    torch.manual_seed(0)
    norm = BatchNorm(5).double().train()
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return norm, {name: value.clone() for name, value in norm.state_dict().items()}


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("how", ["forward", "fold", "fold learned frames"])
def test_it_is_pytorchs_of_every_repetition(how: str, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and running statistics; learned frames come from an encoder and have a gradient."""
    monkeypatch.setattr(
        "vidfit.kernels.batch_norm._BLOCK", 35
    )  # so that there are several blocks, the last a short one
    norm, copied = random_norm()
    mean_D, variance_D = copied["running_mean"], copied["running_var"]
    counts_BT = COUNTS_BT if counted else torch.ones(4, 6, dtype=torch.long)
    counts = counts_BT.double() if counted else None
    frames_BTD = 3 + torch.randn(4, 6, 5, dtype=torch.float64)
    leaves = [norm.weight, norm.bias, *([] if how == "fold" else [frames_BTD.requires_grad_()])]
    copies = [leaf.detach().clone().requires_grad_() for leaf in (copied["weight"], copied["bias"], frames_BTD)]
    if how == "forward":
        normalised_BTD = norm(frames_BTD, counts)
    else:
        scale_D, shift_D = norm.scale_and_shift(frames_BTD, counts)
        normalised_BTD = frames_BTD * scale_D + shift_D

    def repeated(values_BTD: Tensor) -> Tensor:
        return values_BTD.flatten(0, 1).repeat_interleave(counts_BT.flatten(), dim=0)

    found_ND = repeated(normalised_BTD)
    expected_ND = F.batch_norm(
        repeated(copies[2]), mean_D, variance_D, copies[0], copies[1], training=True, momentum=1e-3, eps=1e-3
    )
    torch.testing.assert_close(found_ND, expected_ND)
    torch.testing.assert_close(norm.running_mean, mean_D)
    torch.testing.assert_close(norm.running_var, variance_D)
    weights_ND = torch.randn_like(found_ND)
    found = torch.autograd.grad((found_ND * weights_ND).sum(), leaves)
    expected = torch.autograd.grad((expected_ND * weights_ND).sum(), copies[: len(leaves)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("fold", [False, True])
def test_a_single_value_is_normalised_with_the_running_statistics(fold: bool, counted: bool) -> None:
    norm, copied = random_norm()
    values_BTD = torch.randn(1, 2 if counted else 1, 5, dtype=torch.float64)
    counts = torch.tensor([[0.0, 1.0]]).double() if counted else None
    if fold:
        scale_D, shift_D = norm.scale_and_shift(values_BTD, counts)
        found_D = values_BTD[0, -1] * scale_D + shift_D
    else:
        found_D = norm(values_BTD, counts)[0, -1]
    expected_D = (values_BTD[0, -1] - copied["running_mean"]) / (copied["running_var"] + 1e-3).sqrt()
    torch.testing.assert_close(found_D, expected_D * copied["weight"] + copied["bias"])
    torch.testing.assert_close(norm.running_mean, copied["running_mean"])
    torch.testing.assert_close(norm.running_var, copied["running_var"])
