"""Families and heads against the original's numbers: inference, penalty, training loss, gradients, optimiser steps."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.formulas import Formulas, gru, model_input
from tests.models.reference import DEFAULT_FILES, EQUAL_FILES, GRU_FILES, Reference, penalty
from vidfit.models.classifier import VideoClassifier
from vidfit.models.pooled import PooledFamily
from vidfit.models.preprocessing import frame_mask, prepare_frames
from vidfit.training.averaging import AveragingConfig, averaged_copy
from vidfit.training.losses import cross_entropy

TOLERANCE = 1e-5
ALL_FILES = EQUAL_FILES + GRU_FILES


@pytest.fixture
def read(golden_dir: Path) -> Callable[[str], Reference]:
    return lambda name: Reference.read(golden_dir / f"{name}.npz")


@pytest.fixture
def read_training(read: Callable[[str], Reference]) -> Callable[[str], Reference]:
    def read_training(name: str) -> Reference:
        reference = read(name)
        if "train/labels" not in reference:
            pytest.skip(f"{name}.npz has no training vectors")
        return reference

    return read_training


def test_the_folder_holds_model_files(golden_dir: Path) -> None:
    assert ALL_FILES, f"{golden_dir} holds none"
    if "VIDFIT_GOLDEN" not in os.environ:
        assert set(ALL_FILES) >= DEFAULT_FILES


def close(actual: Tensor | np.ndarray | float, expected: Tensor | np.ndarray, what: str = "") -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


def training_loss(reference: Reference, module: VideoClassifier) -> tuple[Tensor, Tensor]:
    """Probabilities in training mode and the label loss; targets are mixed with the teacher's where there is one."""
    labels_BC = torch.from_numpy(reference["train/labels"]).float()
    targets_BC = labels_BC
    if "train/teacher" in reference:
        teacher_BC, weight = torch.from_numpy(reference["train/teacher"]), reference.meta["train"]["lam"]
        targets_BC = weight * teacher_BC + (1 - weight) * labels_BC
    probabilities_BC = module.train()(*reference.frames())
    return probabilities_BC, cross_entropy(probabilities_BC, targets_BC)


@pytest.mark.parametrize("name", ALL_FILES)
def test_golden_model_input(name: str, read: Callable[[str], Reference]) -> None:
    reference = read(name)
    frames, num_frames_B = reference.frames()
    counts_BT = frame_mask(num_frames_B, reference["in/model_input"].shape[1]).float()
    close(prepare_frames(frames, reference.spec, counts_BT), reference["in/model_input"])


@pytest.mark.parametrize("name", EQUAL_FILES)
def test_golden_inference(name: str, read: Callable[[str], Reference]) -> None:
    reference = read(name)
    module = reference.classifier()
    frames, num_frames_B = reference.frames()
    counts_BT = frame_mask(num_frames_B, reference["in/model_input"].shape[1]).float()
    model_input_BTD = torch.from_numpy(reference["in/model_input"])
    with torch.inference_mode():
        if "mid/pooled" in reference:
            assert isinstance(module.family, PooledFamily)
            close(module.family.pool(model_input_BTD, counts_BT).T, reference.by_cluster(reference["mid/pooled"].T))
        if "mid/head_input" in reference:
            close(module.family(model_input_BTD, counts_BT), reference["mid/head_input"])
        close(module(frames, num_frames_B), reference["out/predictions"])


@pytest.mark.parametrize("name", ALL_FILES)
def test_golden_penalty(name: str, read: Callable[[str], Reference]) -> None:
    reference = read(name)
    np.testing.assert_allclose(penalty(reference.classifier()).item(), reference["out/reg_loss"], rtol=TOLERANCE)


@pytest.mark.parametrize("name", EQUAL_FILES)
def test_golden_loss_and_gradients(name: str, read_training: Callable[[str], Reference]) -> None:
    reference = read_training(name)
    module = reference.classifier()
    probabilities_BC, loss = training_loss(reference, module)
    close(probabilities_BC.detach(), reference["train/predictions"])
    close(loss.item(), reference["train/label_loss"])
    (loss + penalty(module)).backward()
    expected = reference.state("grad")
    assert set(expected) == {name for name, _ in module.named_parameters()}
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, expected[parameter_name], parameter_name)


@pytest.mark.parametrize("name", EQUAL_FILES)
def test_golden_steps(name: str, read_training: Callable[[str], Reference]) -> None:
    """Every variable and its moving average, statistics included, after one and three steps of clipped Adam."""
    reference = read_training(name)
    module, settings = reference.classifier(), reference.meta["train"]
    optimiser = torch.optim.Adam(module.parameters())
    decay = 1 - 1 / settings["ema_halflife"]
    average = averaged_copy(module, AveragingConfig(method="ema", steps=settings["steps"], ema_decay=decay))
    # Adam moves a weight by its gradient's sign, so where that is rounding noise there is nothing to compare.
    significant = {name: gradient.abs() > 1e-5 for name, gradient in reference.state("grad").items()}
    # A bias before another batch norm has no gradient but noise; it wanders, and the means that follow wander with it.
    wandering = any(not elements.any() for elements in significant.values())
    batch = len(reference["train/labels"])
    losses = []
    for step in range(settings["steps"]):
        drops = step * batch // settings["decay_examples"]
        # The original adds epsilon to the uncorrected root of the second moment, PyTorch to the corrected one.
        correction = (1 - settings["adam"]["beta2"] ** (step + 1)) ** 0.5
        optimiser.param_groups[0]["lr"] = settings["base_lr"] * settings["decay"] ** drops
        optimiser.param_groups[0]["eps"] = settings["adam"]["eps"] / correction
        _, loss = training_loss(reference, module)
        losses.append(loss.item())
        optimiser.zero_grad()
        (loss + penalty(module)).backward()
        for parameter in module.parameters():
            torch.nn.utils.clip_grad_norm_(parameter, settings["clip"])
        optimiser.step()
        average.update_parameters(module)
        for prefix, found in (("step", module), ("ema", average.module)):
            for variable, expected in reference.state(f"{prefix}{step + 1}").items():
                if wandering and step > 0 and variable.endswith("running_mean"):
                    continue
                compared = significant.get(variable, torch.ones_like(expected, dtype=torch.bool))
                what = f"{prefix} of {variable} after step {step + 1}"
                close(found.state_dict()[variable][compared], expected[compared], what)
    close(np.array(losses), reference["train/label_loss_per_step"])


@pytest.mark.parametrize("name", GRU_FILES)
def test_golden_gru(name: str, read: Callable[[str], Reference]) -> None:
    """With the file's weights the original's form gives the file's numbers; ours differs in the reset gate alone."""
    reference = read(name)
    module = reference.classifier()
    state = {key: value.double().numpy() for key, value in module.state_dict().items()}
    videos = [
        codes[:length] for codes, length in zip(reference["in/features_uint8"], reference["in/num_frames"], strict=True)
    ]
    formulas, videos = Formulas(state), model_input(videos)

    original = formulas.recurrent(videos, lambda *arguments: gru(*arguments, reset_after=False))
    close(original, reference["mid/head_input"])
    close(formulas.logistic(original), reference["out/predictions"])

    with torch.inference_mode():
        probabilities_BC = module(*reference.frames())
    close(probabilities_BC, formulas.logistic(formulas.recurrent(videos, gru)))
