"""Members on disk: what is quantised stays as it is, and files that are no sound member are told in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vidfit.cli import main
from vidfit.errors import ModelFileError
from vidfit.quantization.codebook import CodebookTensor
from vidfit.quantization.member import load_member, quantize_member
from vidfit.quantization.uniform import Grid, QuantizedTensor, quantize


@pytest.fixture
def quantised(finished: Path) -> Path:
    return finished / "members" / "vlad" / "quantized.safetensors"


def document(path: Path) -> dict:
    """What a member's metadata say, without the checksum: of edited tensors it would be wrong."""
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["vidfit"])
    del document["crc32c"]
    return document


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
    assert all(tensor is member.state[name] for name, tensor in member.quantized().state.items())
    assert quantize_member(quantised, tmp_path / "again.safetensors").read_bytes() == quantised.read_bytes()


@pytest.mark.parametrize("codebook", ["quantile", "kmeans"])
def test_a_codebook_is_written_and_read(codebook, finished: Path, tmp_path: Path):
    path = quantize_member(finished / "members" / "vlad", tmp_path / "q.safetensors", codebook)
    tensors, member = load_file(path), load_member(path)
    assert tensors["family.hidden.weights.codes"].dtype == torch.uint8
    assert tensors["family.hidden.weights.codebook"].shape == (256,)
    assert member.bits == 8
    assert any(isinstance(tensor, CodebookTensor) for tensor in member.state.values())
    original = load_member(finished / "members" / "vlad").state["family.hidden.weights"]
    found = member.classifier().state_dict()["family.hidden.weights"]
    assert isinstance(original, torch.Tensor)
    assert 0 < (found - original).abs().mean() < 0.01 * original.abs().mean()
    assert all(tensor is member.state[name] for name, tensor in member.quantized().state.items())
    assert quantize_member(path, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_codebook_for_what_is_quantised_is_refused(quantised: Path, tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"is quantised already; give the float32 member, best\.safetensors"):
        quantize_member(quantised, tmp_path / "q.safetensors", "kmeans")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codebook", ["uniform", "quantile", "kmeans"])
def test_the_command_line_takes_a_codebook(
    codebook, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    source = finished / "members" / "vlad"
    paths = [tmp_path / "command.safetensors", tmp_path / "function.safetensors"]
    monkeypatch.setattr("sys.argv", ["vidfit", "quantize", str(source), "-o", str(paths[0]), "--codebook", codebook])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith(f"{paths[0]}: ")
    assert paths[0].read_bytes() == quantize_member(source, paths[1], codebook).read_bytes()


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


@pytest.mark.parametrize("part", ["codes", "codebook"])
@pytest.mark.parametrize("change", ["missing", "too long"])
def test_codebooks_that_do_not_fit(part: str, change: str, finished: Path, tmp_path: Path):
    path = quantize_member(finished / "members" / "vlad", tmp_path / "q.safetensors", "kmeans")
    metadata, tensors = {"vidfit": json.dumps(document(path))}, load_file(path)
    tensor = tensors.pop(f"family.hidden.weights.{part}")
    if change == "too long":
        tensors[f"family.hidden.weights.{part}"] = torch.cat([tensor.flatten()] * 2)
    save_file(tensors, path, metadata)
    assert_refused(path, r"family\.hidden\.weights")


@pytest.fixture
def mixed(finished: Path, tmp_path: Path) -> Path:
    """A member whose big matrix has a grid of its own."""
    path = tmp_path / "mixed.safetensors"
    load_member(finished / "members" / "lstm").quantized({"family.top.ahead.weights": Grid.parse("3/64")}).save(path)
    return path


@pytest.mark.parametrize("text", ["3/64", "5/channel/symmetric", "2", "8/128"])
def test_grids_are_written_and_read(text: str, finished: Path, tmp_path: Path):
    name, path, grid = "family.top.ahead.weights", tmp_path / "member.safetensors", Grid.parse(text)
    original = load_member(finished / "members" / "lstm")
    original.quantized({name: grid}).save(path)
    assert document(path)["extra"]["grids"] == {name: text}
    before, found = original.state[name], load_member(path).state[name]
    assert isinstance(before, torch.Tensor)
    assert isinstance(found, QuantizedTensor)
    assert sum(value.nbytes for key, value in load_file(path).items() if key.startswith(name)) == found.nbytes
    assert torch.equal(found.dequantize(), quantize(before, grid).dequantize())
    assert load_member(path).bits == grid.bits


@pytest.mark.parametrize("part", ["codes", "scale", "offset"])
@pytest.mark.parametrize("change", ["missing", "too long", "dtype", "no number"])
def test_parts_that_do_not_fit_their_grid(part: str, change: str, mixed: Path, tmp_path: Path):
    tensors, key = load_file(mixed), f"family.top.ahead.weights.{part}"
    tensor = tensors.pop(key)
    if change == "no number" and part == "codes":
        pytest.skip("bytes are always numbers")
    changed = {
        "too long": torch.cat([tensor.flatten()] * 2),
        "dtype": tensor.float(),
        "no number": torch.full_like(tensor, torch.nan) if part != "codes" else tensor,
    }
    if change != "missing":
        tensors[key] = changed[change]
    path = tmp_path / "edited.safetensors"
    save_file(tensors, path, {"vidfit": json.dumps(document(mixed))})
    assert_refused(path, r"family\.top\.ahead\.weights")


@pytest.mark.parametrize(
    "grids", [{"family.top.ahead.weights": text} for text in ("4/64", "9", "", "3/63")] + [{}, [], {"other": "4"}]
)
def test_grids_that_do_not_fit_their_tensors(grids: object, mixed: Path, tmp_path: Path):
    path = tmp_path / "edited.safetensors"
    save_file(load_file(mixed), path, {"vidfit": json.dumps({**document(mixed), "extra": {"grids": grids}})})
    assert_refused(path, "train it again or copy it anew")
