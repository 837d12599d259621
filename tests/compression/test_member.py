"""Members on disk: what is quantised stays as it is, and files that are no sound member are told in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vidfit.compression.member import load_member, quantize_member
from vidfit.errors import ModelFileError


@pytest.fixture
def quantised(finished: Path) -> Path:
    return finished / "members" / "vlad" / "quantized.safetensors"


def document(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["vidfit"])


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load_member(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_bits(finished: Path, quantised: Path):
    assert load_member(quantised).bits == 8
    assert load_member(finished / "members" / "vlad").bits == 32


def test_what_is_quantised_stays_as_it_is(quantised: Path, tmp_path: Path):
    member = load_member(quantised)
    assert member.quantized() is member
    assert quantize_member(quantised, tmp_path / "again.safetensors").read_bytes() == quantised.read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocabulary", ["only", "two"]),
        ("classifier", {"family": {"type": "mean"}, "head": {"type": "logistic"}}),
        ("spec", {"modalities": [{"name": "rgb", "size": 24}]}),
        ("classifier", {"family": {"type": "lstm", "cells": 2 * 10**18}, "head": {"type": "logistic"}}),
    ],
)
def test_metadata_of_another_architecture(key: str, value: object, quantised: Path, tmp_path: Path):
    path = tmp_path / "edited.safetensors"
    save_file(load_file(quantised), path, {"vidfit": json.dumps({**document(quantised), key: value})})
    assert_refused(path, "train it again or copy it anew")


@pytest.mark.parametrize("part", ["codes", "scale", "offset"])
@pytest.mark.parametrize("change", ["missing", "too long"])
def test_tensors_that_do_not_fit(part: str, change: str, quantised: Path, tmp_path: Path):
    tensors = load_file(quantised)
    key = f"family.hidden.weights.{part}"
    tensor = tensors.pop(key)
    if change == "too long":
        tensors[key] = torch.cat([tensor.flatten()] * 2)
    path = tmp_path / "edited.safetensors"
    save_file(tensors, path, {"vidfit": json.dumps(document(quantised))})
    assert_refused(path, r"family\.hidden\.weights")
