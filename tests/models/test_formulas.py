"""Families and heads against float64 NumPy: unequal lengths, several modalities, inference and training mode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.formulas import Formulas, gru, lstm, model_input
from tests.models.reference import penalty
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig, VideoClassifier
from vidfit.models.preprocessing import frame_mask, prepare_frames

SPEC = FeatureSpec(modalities=tuple(Modality(name=name, size=size) for name, size in (("a", 7), ("b", 3), ("c", 4))))
SLICES = list(SPEC.slices().values())
LENGTHS = (5, 1, 9, 2, 9)
CLASSES = 6

POOLED = {"hidden": 5, "clusters": {"a": 4, "b": 3, "c": 2}}
GROUPS = {"a": 7, "b": 2, "c": 4}
POOLINGS = {"a": "gated", "b": "soft", "c": "gated"}
FORMULAS: dict[str, tuple[dict[str, Any], Callable[[Formulas, list[np.ndarray]], np.ndarray]]] = {
    "mean": ({"type": "mean"}, lambda f, videos: f.mean(videos)),
    "mean and max": ({"type": "mean", "max": True}, lambda f, videos: f.mean_and_max(videos)),
    "netvlad": ({"type": "netvlad", **POOLED}, lambda f, videos: f.hidden(f.netvlad(videos, SLICES))),
    "netvlad light": (
        {"type": "netvlad", "light": True, "hidden": 5, "clusters": 3, "gating": False},
        lambda f, videos: f.hidden(f.netvlad(videos, SLICES)),
    ),
    "netvlad relu": (
        {"type": "netvlad", "relu": True, **POOLED},
        lambda f, videos: f.hidden(f.netvlad(videos, SLICES)),
    ),
    "netfv": ({"type": "netfv", **POOLED}, lambda f, videos: f.hidden(f.netfv(videos, SLICES))),
    "dbof gated and soft": (
        {"type": "dbof", "pooling": POOLINGS, **POOLED},
        lambda f, videos: f.hidden(f.dbof(videos, SLICES)),
    ),
    "dbof max": (
        {"type": "dbof", "pooling": "max", "relu": True, **POOLED},
        lambda f, videos: f.hidden(f.dbof(videos, SLICES, largest=True)),
    ),
    "lstm": ({"type": "lstm", "cells": 6}, lambda f, videos: f.recurrent(videos, lstm)),
    "lstm gated": ({"type": "lstm", "cells": 4, "gating": True}, lambda f, videos: f.recurrent(videos, lstm)),
    "gru": ({"type": "gru", "cells": 6}, lambda f, videos: f.recurrent(videos, gru)),
    "gru gated": ({"type": "gru", "cells": 4, "gating": True}, lambda f, videos: f.recurrent(videos, gru)),
    "attention": (
        {"type": "attention", "heads": 3, "values": 12, "hidden": 5},
        lambda f, videos: f.attention(videos),
    ),
    "nextvlad": (
        {
            "type": "nextvlad",
            "clusters": POOLED["clusters"],
            "groups": GROUPS,
            "hidden": 6,
            "reduction": 2,
            "dropout": 0,
        },
        lambda f, videos: f.nextvlad(videos, SLICES, list(GROUPS.values())),
    ),
    **{
        f"frame-classifier {pooling}": (
            {"type": "frame-classifier", "pooling": pooling, "temperature": 0.7},
            lambda f, videos, pooling=pooling: f.frame_classifier(videos, pooling),
        )
        for pooling in ("max", "log-sum-exp", "attention", "mean", "noisy-or")
    },
}


def build(
    family: dict[str, Any], head: dict[str, Any], seed: int, encoder: dict[str, Any] | None = None
) -> VideoClassifier:
    """A classifier with random values in all of its state: fresh batch norms would hide mistakes.

    A frame classifier goes without the head.
    """
    torch.manual_seed(seed)
    parts = {"encoder": encoder, "family": family}
    if family["type"] != "frame-classifier":
        parts["head"] = head
    config = ClassifierConfig.model_validate(parts)
    module = VideoClassifier(config, SPEC, CLASSES)
    for name, value in module.state_dict().items():
        if name.endswith(("norm.weight", "running_var")):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(std=0.5)
    return module


def bytes_of(lengths: tuple[int, ...], seed: int) -> tuple[list[np.ndarray], dict[str, Tensor]]:
    """Videos `[T, D]` and the same, padded, as the classifier takes them."""
    random = np.random.default_rng(seed)
    videos = [random.integers(0, 256, (length, SPEC.total_size), dtype=np.uint8) for length in lengths]
    padded = np.zeros((len(lengths), max(lengths), SPEC.total_size), np.uint8)
    for row, video in zip(padded, videos, strict=True):
        row[: len(video)] = video
    return videos, {name: torch.from_numpy(padded[..., columns]) for name, columns in SPEC.slices().items()}


def pooled(module: VideoClassifier, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
    """What the family makes of frames: the head's input, or a frame classifier's probabilities."""
    output = module.family(frames_BTD, counts_BT)
    return output[0] if module.head is None else output


def float64(module: VideoClassifier) -> dict[str, np.ndarray]:
    return {name: value.double().numpy().copy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4)], ids=["unequal", "equal"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("family", FORMULAS)
def test_family_is_its_formula(family: str, training: bool, lengths: tuple[int, ...]) -> None:
    config, formula = FORMULAS[family]
    module = build(config, {"type": "logistic"}, seed=1).train(training)
    videos, frames = bytes_of(lengths, seed=2)
    expected = formula(Formulas(float64(module), training), model_input(videos))
    counts_BT = frame_mask(torch.tensor(lengths), max(lengths)).float()
    for counts in [counts_BT, None] if len(set(lengths)) == 1 else [counts_BT]:
        actual = pooled(module, prepare_frames(frames, SPEC, counts), counts)
        np.testing.assert_allclose(actual.detach(), expected, rtol=1e-5, atol=1e-5)


def test_batch_norms_learn_statistics_of_real_frames() -> None:
    module = build({"type": "netvlad", "hidden": 3, "clusters": 4}, {"type": "logistic"}, seed=1).train()
    before = float64(module)
    videos, frames = bytes_of(LENGTHS, seed=2)
    module(frames, torch.tensor(LENGTHS))
    real = np.concatenate(model_input(videos))
    after, norm = float64(module), "family.input_norm"
    expected_mean = 0.999 * before[f"{norm}.running_mean"] + 0.001 * real.mean(0)
    expected_variance = 0.999 * before[f"{norm}.running_var"] + 0.001 * real.var(0, ddof=1)
    np.testing.assert_allclose(after[f"{norm}.running_mean"], expected_mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(after[f"{norm}.running_var"], expected_variance, rtol=1e-6, atol=1e-7)
    logits = Formulas(before, training=True).batch_norm(real, norm)[:, SLICES[0]]
    logits = logits @ before["family.pools.0.assignment.weights"]
    norm = "family.pools.0.assignment.norm"
    expected_mean = 0.999 * before[f"{norm}.running_mean"] + 0.001 * logits.mean(0)
    np.testing.assert_allclose(after[f"{norm}.running_mean"], expected_mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FORMULAS)
def test_a_last_batch_of_one_frame_trains(family: str) -> None:
    """A single value has no variance: batch norms take the running statistics and keep them."""
    module = build(FORMULAS[family][0], {"type": "moe", "label_gating": True}, seed=1).train()
    _, frames = bytes_of((1,), seed=2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    probabilities_BC = module(frames, torch.tensor([1]))
    probabilities_BC.sum().backward()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.testing.assert_close(probabilities_BC, module.eval()(frames, torch.tensor([1])))


@pytest.mark.parametrize("label_gating", [False, True])
@pytest.mark.parametrize(("head", "experts"), [("logistic", 0), ("moe", 1), ("moe", 3)])
def test_head_is_its_formula(head: str, experts: int, label_gating: bool) -> None:
    options = {"experts": experts} if experts else {}
    module = build({"type": "mean"}, {"type": head, "l2": 0.1, "label_gating": label_gating, **options}, seed=3).eval()
    x_BH = torch.randn(5, SPEC.total_size)
    formulas = Formulas(float64(module))
    x = x_BH.double().numpy()
    expected = formulas.mixture_of_experts(x, CLASSES) if experts else formulas.logistic(x)
    expected = formulas.gating(expected, "head.label_gating") if label_gating else expected
    np.testing.assert_allclose(module.decides(x_BH).detach(), expected, rtol=1e-5, atol=1e-6)
    penalised = ("gate_weights", "expert_weights") if experts else ("weights",)
    squares = sum((formulas.state[f"head.classifier.{name}"] ** 2).sum() for name in penalised)
    np.testing.assert_allclose(penalty(module).item(), 0.1 * 0.5 * squares, rtol=1e-5)


def test_dropout_acts_on_the_heads_input_in_training_only() -> None:
    """With the identity for weights the logits are the inputs that the classifier sees."""
    head = build({"type": "mean"}, {"type": "logistic", "dropout": 0.5}, seed=4).decides
    head.load_state_dict(
        {"classifier.weights": torch.eye(SPEC.total_size, CLASSES), "classifier.biases": torch.zeros(CLASSES)}
    )
    x_BH = torch.ones(50, SPEC.total_size)
    torch.testing.assert_close(torch.logit(head.eval()(x_BH)), torch.ones(50, CLASSES))
    seen = torch.logit(head.train()(x_BH)).detach().round(decimals=3)
    assert set(seen.unique().tolist()) == {0.0, 2.0}
    assert (seen != seen[0]).any()
