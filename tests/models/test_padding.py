"""Padding a batch further changes nothing: neither outputs nor gradients, in either mode."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models.test_encoder import ENCODED_FORMULAS, HIDDEN
from tests.models.test_formulas import FORMULAS, build, bytes_of

CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    **{name: (config, None) for name, (config, _) in FORMULAS.items()},
    **{f"encoder, {name}": (config, {"hidden": HIDDEN}) for name, (config, _) in ENCODED_FORMULAS.items()},
    "deep encoder": ({"type": "mean"}, {"hidden": [4, 5, HIDDEN]}),
    "recurrent encoder": ({"type": "frame-classifier"}, {"hidden": HIDDEN, "cells": 4}),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    extra=st.integers(1, 5),
    rubbish=st.integers(0, 255),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_padding_further_changes_nothing(
    case: str, lengths: list[int], extra: int, rubbish: int, training: bool, seed: int
) -> None:
    family, encoder = CASES[case]
    _, frames = bytes_of(tuple(lengths), seed)
    further = {
        name: torch.cat([codes, torch.full((len(codes), extra, codes.shape[2]), rubbish, dtype=torch.uint8)], dim=1)
        for name, codes in frames.items()
    }

    def run(frames: dict[str, Tensor]) -> list[Tensor]:
        module = build(family, {"type": "moe", "label_gating": True}, seed, encoder).train(training)
        probabilities_BC = module(frames, torch.tensor(lengths))
        probabilities_BC.square().sum().backward()
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert len(gradients) == len(list(module.parameters()))
        return [probabilities_BC.detach(), *gradients, *module.buffers()]

    for actual, expected in zip(run(further), run(frames), strict=True):
        # Against the tensor's largest: a Fisher vector's gradients are sums of terms that nearly cancel, rounded in
        # another order where there is more padding. Padding that counted would still be seen, in every family.
        tolerance = 1e-5 + 1e-3 * expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
