"""The frame layers against float64 NumPy, alone and in front of families of every kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.models.formulas import Formulas, gru, model_input
from tests.models.test_formulas import LENGTHS, SPEC, build, bytes_of, float64, pooled
from vidfit.models.encoder import EncoderConfig
from vidfit.models.preprocessing import frame_mask, prepare_frames

HIDDEN = 6
WHOLE = [slice(0, HIDDEN)]
ENCODED_FORMULAS: dict[str, tuple[dict[str, Any], Callable[[Formulas, list[np.ndarray]], np.ndarray]]] = {
    "mean": ({"type": "mean"}, lambda f, videos: f.mean(videos)),
    "netvlad": (
        {"type": "netvlad", "hidden": 5, "clusters": 3},
        lambda f, videos: f.hidden(f.netvlad(videos, WHOLE)),
    ),
    "dbof": (
        {"type": "dbof", "hidden": 5, "clusters": {"frame": 4}},
        lambda f, videos: f.hidden(f.dbof(videos, WHOLE)),
    ),
    "gru": ({"type": "gru", "cells": 6}, lambda f, videos: f.recurrent(videos, gru)),
    "attention": (
        {"type": "attention", "heads": 2, "values": 8, "hidden": 5},
        lambda f, videos: f.attention(videos),
    ),
    "frame-classifier": (
        {"type": "frame-classifier", "pooling": "attention"},
        lambda f, videos: f.frame_classifier(videos, "attention"),
    ),
}


def encoded(formulas: Formulas, videos: list[np.ndarray]) -> list[np.ndarray]:
    ends = np.cumsum([len(video) for video in videos])[:-1]
    hidden, layer = np.concatenate(videos), "encoder"
    while f"{layer}.weights" in formulas.state:
        hidden = np.maximum(formulas.batch_norm(hidden @ formulas.state[f"{layer}.weights"], f"{layer}.norm"), 0)
        layer += ".deeper"
    encoded = np.split(hidden, ends)
    if f"{layer}.layer.ahead.weights" not in formulas.state:
        return encoded
    return [formulas.both_ways(f"{layer}.layer", video, gru) for video in encoded]


@pytest.mark.parametrize(
    "encoder",
    [{"hidden": HIDDEN}, {"hidden": [7, HIDDEN]}, {"hidden": [5, 7, HIDDEN]}, {"hidden": [7, 5], "cells": HIDDEN // 2}],
    ids=["one", "two", "three", "recurrent"],
)
@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4)], ids=["unequal", "equal"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("family", ENCODED_FORMULAS)
def test_encoder_and_family_are_their_formulas(
    family: str, training: bool, lengths: tuple[int, ...], encoder: dict[str, Any]
) -> None:
    config, formula = ENCODED_FORMULAS[family]
    module = build(config, {"type": "logistic"}, 1, encoder).train(training)
    videos, frames = bytes_of(lengths, seed=2)
    formulas = Formulas(float64(module), training)
    expected = encoded(formulas, model_input(videos))
    assert module.encoder is not None
    for counts in [
        frame_mask(torch.tensor(lengths), max(lengths)).float(),
        *([None] if len(set(lengths)) == 1 else []),
    ]:
        hidden_BTH = module.encoder(prepare_frames(frames, SPEC, counts), counts)
        for found, video in zip(hidden_BTH.detach(), expected, strict=True):
            np.testing.assert_allclose(found[: len(video)], video, rtol=1e-5, atol=1e-5)
        found = pooled(module, hidden_BTH, counts).detach()
        np.testing.assert_allclose(found, formula(formulas, expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ENCODED_FORMULAS)
def test_a_part_is_decided_by_its_own_frames_which_know_the_whole_video(family: str) -> None:
    config, formula = ENCODED_FORMULAS[family]
    module = build(config, {"type": "logistic"}, 1, {"hidden": 5, "cells": HIDDEN // 2}).eval()
    videos, frames = bytes_of(LENGTHS, seed=2)
    longest = int(np.argmax(LENGTHS))
    parts = [(longest, 1, 3), (0, 0, 1), (longest, 0, LENGTHS[longest])]
    found = module(frames, torch.tensor(LENGTHS), parts_N3=torch.tensor(parts)).detach()
    formulas = Formulas(float64(module))
    known = encoded(formulas, model_input(videos))
    expected = formula(formulas, [known[place][first:stop] for place, first, stop in parts])
    if module.head is not None:
        expected = formulas.logistic(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    module = build({"type": "mean"}, {"type": "logistic"}, 1, {"hidden": 40, "dropout": 0.5})
    assert module.encoder is not None
    module.encoder.norm.bias.data.fill_(9)
    frames_BTD = torch.randn(3, 7, SPEC.total_size)
    assert (module.encoder.eval()(frames_BTD, None) > 0).all()
    dropped = (module.encoder.train()(frames_BTD, None) == 0).float().mean()
    assert 0.4 < dropped < 0.6


@pytest.mark.parametrize("sizes", [0, [], [4, 0], [4, 4, 4, 4]])
def test_an_encoder_has_one_to_three_layers(sizes: object) -> None:
    with pytest.raises(ValidationError):
        EncoderConfig.model_validate({"hidden": sizes})
