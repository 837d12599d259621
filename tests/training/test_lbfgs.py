"""A linear member from all videos at once, against Newton's method in float64."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.corpus import LABELS
from tests.training.toy import go, label, log_lines, weights
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.models.classifier import ClassifierConfig, VideoClassifier
from vidfit.recipe import MemberConfig
from vidfit.training import lbfgs
from vidfit.training.checkpoint import BEST, save_member
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import SoftTargets
from vidfit.training.lbfgs import pooled

CONFIG = TrainingConfig(solver="lbfgs", steps=500, batch_size=16)
L2 = 0.003
LINEAR = {"family": {"type": "mean", "max": True}, "head": {"type": "logistic", "l2": L2}}
CLASSIFIER = ClassifierConfig.model_validate(LINEAR)


def newton(inputs_NH: np.ndarray, targets_NC: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[H, C]` and biases `[C]` at which `mean BCE + l2/2 sum W^2` is least, one class after the other."""
    x = np.concatenate([inputs_NH, np.ones((len(inputs_NH), 1))], axis=1)
    penalty = np.diag(np.r_[np.full(inputs_NH.shape[1], l2), 0])
    found = []
    for target in targets_NC.T:
        w = np.zeros(x.shape[1])
        for _ in range(50):
            p = 1 / (1 + np.exp(-x @ w))
            gradient = x.T @ (p - target) / len(x) + penalty @ w
            w -= np.linalg.solve((x.T * (p * (1 - p))) @ x / len(x) + penalty + 1e-12 * np.eye(len(w)), gradient)
        found.append(w)
    both = np.stack(found, axis=1)
    return both[:-1], both[-1]


def videos(corpus: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pooled frames and labels of the training videos, float64."""
    shards = expand_shards([corpus / "train"])
    batch = next(iter(Batches(shards, infer_spec(shards), len(LABELS), 10_000)))
    inputs_NH = pooled(VideoClassifier(CLASSIFIER, infer_spec(shards), len(LABELS)), batch)
    return inputs_NH.double().numpy(), batch.multi_hot(len(LABELS)).double().numpy()


@pytest.mark.parametrize("group", [8192, 20])
def test_it_finds_the_weights_of_the_least_loss(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
):
    monkeypatch.setattr(lbfgs, "_VIDEOS", group)
    info = go(corpus, tmp_path, CONFIG, classifier=CLASSIFIER)
    found = weights(tmp_path, BEST)
    wanted_HC, biases_C = newton(*videos(corpus), L2)
    assert found["head.classifier.weights"].numpy() == pytest.approx(wanted_HC, abs=2e-3 * np.abs(wanted_HC).max())
    assert found["head.classifier.biases"].numpy() == pytest.approx(biases_C, abs=5e-3 * np.abs(biases_C).max())
    (line,) = log_lines(tmp_path)
    assert line["step"] == info.step < 500
    assert info.gap_validation
    assert line["gap"] == info.gap_validation > 0


def test_a_stronger_penalty_makes_smaller_weights(corpus: Path, tmp_path: Path):
    strong = ClassifierConfig.model_validate({**LINEAR, "head": {"type": "logistic", "l2": 100 * L2}})
    go(corpus, tmp_path / "plain", CONFIG, classifier=CLASSIFIER)
    go(corpus, tmp_path / "strong", CONFIG, classifier=strong)
    plain, strong = (weights(tmp_path / name, BEST)["head.classifier.weights"].norm() for name in ("plain", "strong"))
    assert strong < plain / 3


def test_it_tells_how_many_videos_are_pooled(corpus: Path, tmp_path: Path):
    told: list[tuple[int, int]] = []
    go(corpus, tmp_path, CONFIG, classifier=CLASSIFIER, on_pooled=lambda done, total: told.append((done, total)))
    (first, total), number = told[0], len(videos(corpus)[0])
    assert first == CONFIG.batch_size
    assert total == pytest.approx(number, rel=0.1)  # an estimate
    assert told[-1] == (min(number, total), total)


def test_any_seed_gives_the_same_weights(corpus: Path, tmp_path: Path):
    for seed in (1, 2):
        go(corpus, tmp_path / str(seed), CONFIG, seed=seed, classifier=CLASSIFIER)
    one, two = (weights(tmp_path / str(seed), BEST)["head.classifier.weights"] for seed in (1, 2))
    assert torch.allclose(one, two, atol=2e-3 * float(one.abs().max()))


def test_it_learns_what_teachers_say(corpus: Path, tmp_path: Path):
    soft = label(corpus, tmp_path / "soft", 0.7)
    go(corpus, tmp_path / "m", CONFIG, classifier=CLASSIFIER, soft_targets=SoftTargets(soft, 1.0))
    found = weights(tmp_path / "m", BEST)
    assert found["head.classifier.weights"].abs().max() < 0.1
    assert torch.sigmoid(found["head.classifier.biases"]).numpy() == pytest.approx(0.7, abs=0.05)


def test_a_signal_while_it_is_saved_waits(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def save(*given: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save_member(*given)

    monkeypatch.setattr(lbfgs, "save_member", save)
    with pytest.raises(SystemExit):
        go(corpus, tmp_path, CONFIG, classifier=CLASSIFIER)
    assert (tmp_path / BEST).exists()
    assert len(log_lines(tmp_path)) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"head": {"type": "logistic", "dropout": 0.1}}, "family mean with a logistic head"),
        ({"head": {"type": "moe", "experts": 2}}, "family mean with a logistic head"),
        ({"encoder": {"hidden": 8}}, "family mean with a logistic head"),
        ({"family": {"type": "lstm", "cells": 8}}, "family mean with a logistic head"),
        ({"training": {"solver": "lbfgs", "epochs": 3}}, "needs steps"),
        ({"training": {"solver": "lbfgs", "steps": 9, "mixup": 0.2}}, "remove mixup"),
        ({"training": {"solver": "lbfgs", "steps": 9, "averaging": {"steps": 4}}}, "remove averaging"),
    ],
)
def test_what_has_no_single_best_is_refused(change: dict, told: str):
    with pytest.raises(ValidationError, match=told):
        MemberConfig.model_validate({**LINEAR, "training": {"solver": "lbfgs", "steps": 9}, **change})
