"""One step: what goes into it, in parts and at once."""

import pytest
import torch

from vidfit.features.batch import Batch
from vidfit.features.segments import NO_SEGMENTS
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.kernels import factored_gradients
from vidfit.models.classifier import ClassifierConfig, VideoClassifier
from vidfit.models.sampling import sample_frames
from vidfit.training import train_step
from vidfit.training.config import TrainingConfig
from vidfit.training.train_step import TrainStep

SPEC = FeatureSpec(
    modalities=(Modality(name="rgb", size=12, dtype="uint8"), Modality(name="audio", size=4, dtype="uint8"))
)
CLASSES = 40
FAMILY_CONFIGS = {
    "mean": {"type": "mean"},
    "netvlad": {"type": "netvlad", "clusters": 8, "hidden": 36},
    "netfv": {"type": "netfv", "clusters": 8, "hidden": 36},
    "dbof gated and soft": {"type": "dbof", "clusters": 8, "hidden": 36, "pooling": {"rgb": "gated", "audio": "soft"}},
    "dbof max": {"type": "dbof", "clusters": 8, "hidden": 36, "pooling": "max"},
    "lstm": {"type": "lstm", "cells": 8},
}
HEAD = {"type": "moe", "experts": 2, "l2": 0.01}


def build_step(family: str = "lstm", **config) -> TrainStep:
    torch.manual_seed(3)
    classifier = ClassifierConfig.model_validate({"family": FAMILY_CONFIGS[family], "head": HEAD})
    options = {"steps": 1, "batch_size": 7, "sample_frames": 5, **config}
    return TrainStep(VideoClassifier(classifier, SPEC, CLASSES), TrainingConfig.model_validate(options), 1)


def take_steps(train_step: TrainStep, steps: int = 3) -> list[float]:
    """The losses of a few steps on seven videos."""
    generator = torch.Generator().manual_seed(5)
    num_frames = torch.tensor([3, 9, 1, 4, 6, 2, 7])
    frames = {
        modality.name: torch.randint(256, (32, modality.size), dtype=torch.uint8, generator=generator)
        for modality in SPEC.modalities
    }
    labels, counts = torch.arange(7), torch.ones(7, dtype=torch.long)
    batch = Batch([str(n) for n in range(7)], frames, num_frames, labels, counts, [NO_SEGMENTS] * 7)
    batch = batch.to(train_step.device)
    return [float(train_step(batch, batch.multi_hot(CLASSES), number, 0.01)) for number in range(steps)]


@pytest.mark.parametrize("family", [name for name in FAMILY_CONFIGS if name != "lstm"])
def test_a_frame_drawn_twice_is_worked_on_once(family: str, monkeypatch: pytest.MonkeyPatch):
    counted = build_step(family, sample_frames=9)
    losses = take_steps(counted)
    plain = build_step(family, sample_frames=9)
    monkeypatch.setattr(train_step, "sample_distinct", lambda *draw: (sample_frames(*draw), None))
    assert take_steps(plain) == pytest.approx(losses, rel=1e-5)
    # Not the weights: Adam makes steps of gradients that are nothing but rounding, as of a shift before a batch norm.
    torch.testing.assert_close(counted.moments(), plain.moments(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("sampling", ["replacement", "none"])
@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_parts_of_a_batch_add_up_to_it(accumulate: int, sampling: str):
    # A recurrent model has no batch norm, whose statistics are of a part.
    whole, parts = build_step(sampling=sampling), build_step(sampling=sampling, accumulate=accumulate)
    # On a GPU with cuDNN's own TF32 a sum of parts is another number.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert take_steps(parts) == pytest.approx(take_steps(whole), rel=1e-5)
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict(), rtol=1e-4, atol=1e-4)


def test_thin_gradients_change_nothing(monkeypatch: pytest.MonkeyPatch):
    plain = build_step("netvlad")
    losses = take_steps(plain)
    monkeypatch.setattr(factored_gradients, "SMALLEST", 1)
    thinner = build_step("netvlad")
    assert take_steps(thinner) == pytest.approx(losses, rel=1e-5)
    for name, values in plain.model.state_dict().items():
        torch.testing.assert_close(thinner.model.state_dict()[name], values, rtol=1e-4, atol=1e-4)
    assert plain.moments().keys() == thinner.moments().keys()


def test_bfloat16_learns_about_the_same():
    half = build_step("netvlad", precision="bfloat16")
    assert take_steps(half, 5) == pytest.approx(take_steps(build_step("netvlad"), 5), rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    assert all(moment.dtype == torch.float32 for moment in half.moments().values())


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.parametrize("cells", ["family", "encoder"])
def test_frames_for_a_recurrent_model_are_drawn_in_order(cells: str, mixup: float, monkeypatch: pytest.MonkeyPatch):
    member = {"family": FAMILY_CONFIGS["lstm"] if cells == "family" else FAMILY_CONFIGS["mean"], "head": HEAD}
    encoder = {"encoder": {"hidden": 4, "cells": 4}} if cells == "encoder" else {}
    model = VideoClassifier(ClassifierConfig.model_validate(member | encoder), SPEC, CLASSES)
    config = TrainingConfig.model_validate({"steps": 1, "batch_size": 2, "sample_frames": 40, "mixup": mixup})
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        model,
        "forward",
        lambda frames, *_: seen.append(frames["rgb"]) or torch.full((2, CLASSES), 0.5, requires_grad=True),
    )
    # Each frame holds its number, and both videos have nine.
    numbers_ND = torch.arange(9).repeat(2)[:, None].to(torch.uint8)
    frames = {modality.name: numbers_ND.expand(-1, modality.size) for modality in SPEC.modalities}
    ones = torch.ones(2, dtype=torch.long)
    batch = Batch(["a", "b"], frames, torch.tensor([9, 9]), torch.arange(2), ones, [NO_SEGMENTS] * 2)
    step = TrainStep(model, config, 1)
    step(batch.to(step.device), batch.multi_hot(CLASSES).to(step.device), 0, 0.01)
    drawn_BS = seen[0][:, :, 0].float()
    assert (drawn_BS.diff(dim=1) >= 0).all()
    assert len(drawn_BS.unique()) > 8
