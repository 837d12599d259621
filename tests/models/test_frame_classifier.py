"""What only a frame classifier has: probabilities of frames, no head, a prior of its own."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.models.formulas import Formulas, model_input
from tests.models.test_formulas import CLASSES, LENGTHS, SPEC, build, bytes_of, float64
from vidfit.models.classifier import ClassifierConfig, VideoClassifier

POOLINGS = ("max", "log-sum-exp", "attention", "mean", "noisy-or")


def test_frames_have_probabilities_of_their_own() -> None:
    module = build({"type": "frame-classifier"}, {}, seed=1).eval()
    videos, frames = bytes_of(LENGTHS, seed=2)
    _, found_BTC = module.with_frames(frames, torch.tensor(LENGTHS))
    assert found_BTC is not None
    formulas = Formulas(float64(module))
    for found, video in zip(found_BTC.detach(), model_input(videos), strict=True):
        expected = formulas.frame_probabilities(video)
        np.testing.assert_allclose(found[: len(video)], expected, rtol=1e-5, atol=1e-6)


def test_other_families_have_no_frame_probabilities() -> None:
    module = build({"type": "mean"}, {"type": "logistic"}, seed=1).eval()
    _, frames = bytes_of(LENGTHS, seed=2)
    assert module.with_frames(frames, torch.tensor(LENGTHS))[1] is None


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_frame_that_counts_twice_is_two_frames(pooling: str) -> None:
    module = build({"type": "frame-classifier", "pooling": pooling}, {}, seed=1).eval()
    _, frames = bytes_of((3, 3), seed=2)
    twice = {name: codes[:, [0, 1, 1, 2]] for name, codes in frames.items()}
    weighted = module(frames, frame_weights=torch.tensor([[1.0, 2.0, 1.0]] * 2))
    torch.testing.assert_close(weighted, module(twice))


@pytest.mark.parametrize("pooling", ["max", "log-sum-exp", "attention", "mean"])
def test_it_starts_at_the_labels_frequencies(pooling: str) -> None:
    config = ClassifierConfig.model_validate({"family": {"type": "frame-classifier", "pooling": pooling}})
    module = VideoClassifier(config, SPEC, CLASSES).eval()
    frequencies_C = torch.linspace(0.01, 0.6, CLASSES)
    module.set_prior(frequencies_C)
    module.family.weights.data.zero_()
    _, frames = bytes_of((2, 7), seed=2)
    torch.testing.assert_close(module(frames, torch.tensor([2, 7])), frequencies_C.expand(2, -1))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_huge_logits_stay_finite(pooling: str) -> None:
    module = build({"type": "frame-classifier", "pooling": pooling, "temperature": 0.1}, {}, seed=1)
    for weights in (module.family.weights, module.family.attention_weights):
        if weights is not None:
            weights.data.mul_(1e3)
    _, frames = bytes_of((2, 7), seed=2)
    probabilities_BC = module(frames, torch.tensor([2, 7]))
    probabilities_BC.sum().backward()
    assert ((probabilities_BC >= 0) & (probabilities_BC <= 1)).all()
    assert all(it.grad is None or it.grad.isfinite().all() for it in module.parameters())


def test_dropout_acts_in_training_only() -> None:
    module = build({"type": "frame-classifier", "pooling": "mean", "dropout": 0.5}, {}, seed=1)
    _, frames = bytes_of((4,), seed=2)
    assert torch.equal(module.eval()(frames), module(frames))
    assert not torch.equal(module.train()(frames), module(frames))


def test_a_head_is_refused_where_frames_decide_and_needed_elsewhere() -> None:
    head = {"type": "logistic"}
    with pytest.raises(ValidationError, match="a frame-classifier decides itself; remove head"):
        ClassifierConfig.model_validate({"family": {"type": "frame-classifier"}, "head": head})
    with pytest.raises(ValidationError, match="missing key head; only a frame-classifier does without"):
        ClassifierConfig.model_validate({"family": {"type": "mean"}})
