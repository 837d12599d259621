"""Batch norm folded into what follows; options by modality, and the errors of wrong ones."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from tests.models.test_formulas import SPEC
from vidfit.errors import RecipeError
from vidfit.models.classifier import ClassifierConfig, FrameClassifier
from vidfit.models.frames import frame_mask
from vidfit.models.layers import BatchNorm, per_modality


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("learned_frames", [False, True])
def test_a_folded_batch_norm_is_pytorchs(learned_frames: bool, masked: bool) -> None:
    """Values, gradients and running statistics; `learned_frames` come from an encoder and have a gradient."""
    torch.manual_seed(0)
    norm = BatchNorm(5).double().train()
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    copied = {name: value.clone() for name, value in norm.state_dict().items()}
    mean_D, variance_D = copied["running_mean"], copied["running_var"]
    frames_BTD = 3 + torch.randn(4, 6, 5, dtype=torch.float64)
    num_frames_B = torch.tensor([6, 1, 3, 4])
    mask_BT = frame_mask(num_frames_B, 6) if masked else torch.ones(4, 6, dtype=torch.bool)
    leaves = [norm.weight, norm.bias, *([frames_BTD.requires_grad_()] if learned_frames else [])]
    copies = [leaf.detach().clone().requires_grad_() for leaf in (copied["weight"], copied["bias"], frames_BTD)]

    scale_D, shift_D = norm.fold(frames_BTD, mask_BT if masked else None)
    found_ND = (frames_BTD * scale_D + shift_D)[mask_BT]
    expected_ND = F.batch_norm(
        copies[2][mask_BT], mean_D, variance_D, copies[0], copies[1], training=True, momentum=1e-3, eps=1e-3
    )
    torch.testing.assert_close(found_ND, expected_ND)
    torch.testing.assert_close(norm.running_mean, mean_D)
    torch.testing.assert_close(norm.running_var, variance_D)
    weights_ND = torch.randn_like(found_ND)
    found = torch.autograd.grad((found_ND * weights_ND).sum(), leaves)
    expected = torch.autograd.grad((expected_ND * weights_ND).sum(), copies[: len(leaves)])
    torch.testing.assert_close(found, expected)


def test_an_option_is_for_all_modalities_or_by_name() -> None:
    assert per_modality(5, SPEC, "clusters") == [5, 5, 5]
    assert per_modality({"c": 1, "a": 2, "b": 3}, SPEC, "clusters") == [2, 3, 1]


@pytest.mark.parametrize("field", ["clusters", "form"])
def test_unknown_modality_names_the_field_and_the_modalities(field: str) -> None:
    value = {"clusters": {"a": 4, "b": 4, "rgb": 4}, "form": {"a": "soft", "b": "soft"}}[field]
    family = {"type": "dbof", "hidden": 4, "clusters": 4, field: value}
    config = ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
    with pytest.raises(RecipeError, match=rf"^{field}: .*\['a', 'b', 'c'\]"):
        FrameClassifier(config, SPEC, 2)


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ({"type": "netvlad", "hidden": 4, "clusters": 4, "cluster": 3}, "cluster"),
        ({"type": "netvlad", "hidden": 0, "clusters": 4}, "hidden"),
        ({"type": "netfv", "hidden": 4, "clusters": {"a": 0}}, "clusters"),
        ({"type": "dbof", "hidden": 4, "clusters": 4, "form": "hard"}, "form"),
        ({"type": "lstm", "cells": 5}, "cells"),
        ({"type": "transformer"}, "family"),
    ],
)
def test_wrong_options_are_errors_that_name_the_field(family: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
    assert field in str(error.value.errors()[0]["loc"])
