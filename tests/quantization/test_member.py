"""Members on disk: quantised ones stay unchanged, and damaged files are refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vidfit.cli import main
from vidfit.errors import ModelFileError
from vidfit.quantization.member import load_member, quantize_member
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize


@pytest.fixture
def quantized(finished: Path) -> Path:
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


def test_bits(finished: Path, quantized: Path):
    assert load_member(quantized).bits == 8
    assert load_member(finished / "members" / "vlad").bits == 32


def test_what_is_quantized_stays_as_it_is(quantized: Path, tmp_path: Path):
    member = load_member(quantized)
    assert all(tensor is member.state[name] for name, tensor in member.quantized().state.items())
    assert quantize_member(quantized, tmp_path / "again.safetensors").read_bytes() == quantized.read_bytes()


def test_the_command_line_quantizes(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    source = finished / "members" / "vlad"
    paths = [tmp_path / "command.safetensors", tmp_path / "function.safetensors"]
    monkeypatch.setattr("sys.argv", ["vidfit", "quantize", str(source), "-o", str(paths[0])])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert capsys.readouterr().out.startswith(f"{paths[0]}: ")
    assert paths[0].read_bytes() == quantize_member(source, paths[1]).read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocabulary", ["only", "two"]),
        ("classifier", {"family": {"type": "mean"}, "head": {"type": "logistic"}}),
        ("spec", {"modalities": [{"name": "rgb", "size": 24}]}),
        ("classifier", {"family": {"type": "lstm", "cells": 2 * 10**18}, "head": {"type": "logistic"}}),
    ],
)
def test_metadata_of_another_architecture(key: str, value: object, quantized: Path, tmp_path: Path):
    path = tmp_path / "edited.safetensors"
    save_file(load_file(quantized), path, {"vidfit": json.dumps({**document(quantized), key: value})})
    assert_refused(path, "quantise or train the member again, or copy the file again")


@pytest.mark.parametrize("part", ["codes", "scale", "offset"])
@pytest.mark.parametrize("change", ["missing", "too long"])
def test_tensors_that_do_not_fit(part: str, change: str, quantized: Path, tmp_path: Path):
    tensors = load_file(quantized)
    key = f"family.hidden.weights.{part}"
    tensor = tensors.pop(key)
    if change == "too long":
        tensors[key] = torch.cat([tensor.flatten()] * 2)
    path = tmp_path / "edited.safetensors"
    save_file(tensors, path, {"vidfit": json.dumps(document(quantized))})
    assert_refused(path, r"family\.hidden\.weights")


def test_a_codebook_of_the_last_release_is_refused(quantized: Path, tmp_path: Path):
    tensors, path = load_file(quantized), tmp_path / "codebook.safetensors"
    name = "family.hidden.weights"
    del tensors[f"{name}.scale"], tensors[f"{name}.offset"]
    tensors[f"{name}.codes"] = tensors[f"{name}.codes"].view(torch.uint8)
    tensors[f"{name}.codebook"] = torch.arange(256.0)
    save_file(tensors, path, {"vidfit": json.dumps(document(quantized))})
    assert_refused(path, f"tensor '{name}' has a codebook, which this version of vidfit does not read; quantise")


def test_schemes_are_read_under_their_old_key(mixed: Path, tmp_path: Path):
    """vidfit 0.1 called them grids."""
    path, old = tmp_path / "old.safetensors", document(mixed)
    old["extra"] = {"grids": old["extra"]["schemes"]}
    save_file(load_file(mixed), path, {"vidfit": json.dumps(old)})
    expected, found = (load_member(file).classifier().state_dict() for file in (mixed, path))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.fixture
def mixed(finished: Path, tmp_path: Path) -> Path:
    """A member whose big matrix has its own scheme."""
    path = tmp_path / "mixed.safetensors"
    load_member(finished / "members" / "lstm").quantized(
        {"family.top.ahead.weights": QuantScheme.parse("3/channel")}
    ).save(path)
    return path


@pytest.mark.parametrize("text", ["3/channel", "5/channel", "2", "8/channel"])
def test_grids_are_written_and_read(text: str, finished: Path, tmp_path: Path):
    name, path, scheme = "family.top.ahead.weights", tmp_path / "member.safetensors", QuantScheme.parse(text)
    original = load_member(finished / "members" / "lstm")
    original.quantized({name: scheme}).save(path)
    assert document(path)["extra"]["schemes"] == {name: text}
    before, found = original.state[name], load_member(path).state[name]
    assert isinstance(before, torch.Tensor)
    assert isinstance(found, QuantizedTensor)
    assert sum(value.nbytes for key, value in load_file(path).items() if key.startswith(name)) == found.nbytes
    assert torch.equal(found.dequantize(), quantize(before, scheme).dequantize())
    assert load_member(path).bits == scheme.bits


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
    "schemes",
    [{"family.top.ahead.weights": text} for text in ("4/channel", "9", "", "3/64", "3/channel/symmetric")]
    + [{}, [], {"other": "4"}],
)
def test_grids_that_do_not_fit_their_tensors(schemes: object, mixed: Path, tmp_path: Path):
    path = tmp_path / "edited.safetensors"
    save_file(load_file(mixed), path, {"vidfit": json.dumps({**document(mixed), "extra": {"schemes": schemes}})})
    assert_refused(path, "quantise or train the member again, or copy the file again")
