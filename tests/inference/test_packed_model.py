"""What is said of a packed file that onnxruntime, or this version of vidfit, cannot use."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import vidfit
from tests.export.members import RGB, member
from tests.inference.test_predictor import edited
from vidfit.errors import ModelFileError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.metadata import read_header
from vidfit.inference.packed_model import NEEDED
from vidfit.quantization.uniform import QuantScheme

Change = Callable[[onnx.ModelProto], None]


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        vidfit.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("bits", "found", "needed"),
    [(8, "1.19.2", "1.20"), (8, "1.9.0", "1.20"), (2, "1.22.1", "1.24"), (6, "1.23.0.dev20250801", "1.24")],
)
def test_an_older_onnxruntime(bits: int, found: str, needed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The error is 1.22.1's own for a file of opset 23, which files with 2 bits have: 6 bits are 4 and 2."""
    narrow = QuantScheme(bits=bits, granularity="channel")
    write_graph(tmp_path / "model.onnx", [PackedMember(member("wide", RGB, narrow), 1.0)], 10**9)

    def session(*arguments: object, **options: object) -> None:
        raise Exception(
            "[ONNXRuntimeError] : 1 : FAIL : Load model failed: ValidateOpsetForDomain\nOpset 23 is under development"
        )

    monkeypatch.setattr(onnxruntime, "__version__", found)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    message = refusal(tmp_path / "model.onnx")
    assert f"needs onnxruntime {needed} or newer, this is {found}" in message
    assert "cut short" not in message


def test_an_older_onnxruntime_and_a_damaged_file(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Damage comes first: another onnxruntime would not mend it."""
    content = bytearray((finished / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.onnx").write_bytes(content)
    monkeypatch.setattr(onnxruntime, "__version__", "1.22.1")
    assert "was altered, damaged or cut short" in refusal(tmp_path / "bad.onnx")


def test_the_needed_version_is_the_required_one():
    requirements = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"onnxruntime>={'.'.join(map(str, min(NEEDED.values())))}" in requirements


def set_format(number: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        helper.set_model_props(
            model, {entry.key: entry.value for entry in model.metadata_props} | {"vidfit.format": number}
        )

    return change


@pytest.mark.parametrize("number", ["2", "17"])
def test_a_file_of_a_newer_vidfit(finished: Path, tmp_path: Path, number: str):
    def change(model: onnx.ModelProto) -> None:
        set_format(number)(model)
        del model.metadata_props[-1]  # a newer format may lack what this one has

    message = refusal(edited(finished / "model.onnx", tmp_path / "new.onnx", change))
    assert f"a packed file of a newer vidfit (format {number}; this one reads 1); install a newer vidfit" in message


@pytest.mark.parametrize("number", ["0", "two", "", "9" * 5000, "²"])
def test_a_file_of_no_known_format(finished: Path, tmp_path: Path, number: str):
    path = edited(finished / "model.onnx", tmp_path / "odd.onnx", set_format(number))
    assert "not a readable packed file (vidfit.format: Input should be '1'" in refusal(path)


def set_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Fancy"


def set_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 999


@pytest.mark.parametrize("change", [set_operator, set_ir_version])
def test_what_else_onnxruntime_refuses_is_not_called_damage(finished: Path, tmp_path: Path, change: Change):
    message = refusal(edited(finished / "model.onnx", tmp_path / "odd.onnx", change))
    assert f"onnxruntime {onnxruntime.__version__} cannot load it (" in message
    assert "try the newest onnxruntime" in message
    assert "cut short" not in message


@pytest.mark.parametrize("words", ["Failed to allocate memory for requested buffer of size 9", "std::bad_alloc"])
def test_a_lack_of_memory_is_no_fault_of_the_file(finished: Path, monkeypatch: pytest.MonkeyPatch, words: str):
    def session(*arguments: object, **options: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(MemoryError, match=words):
        vidfit.load(finished / "model.onnx")


def test_the_header_is_what_onnx_reads(finished: Path, tmp_path: Path):
    for path in (finished / "model.onnx", other(tmp_path / "other.onnx")):
        model = onnx.load(path)
        header = read_header(path)
        assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
        assert [header.opset] == [opset.version for opset in model.opset_import if opset.domain == ""]


def other(path: Path) -> Path:
    """A model of two operator sets, the standard one last, with metadata beyond ASCII and an empty entry."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [value], [value])
    opsets = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(model, {"Ärger": "déjà vu" * 100, "empty": ""})
    onnx.save(model, path)
    return path


def test_a_header_of_anything_else_is_refused(finished: Path, tmp_path: Path):
    """Beginnings of a file, random bytes, and numbers and lengths without an end."""
    whole = (finished / "model.onnx").read_bytes()
    random = np.random.default_rng(0)
    contents = [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"PK\x03\x04", b"<html></html>"]
    contents += [whole[: len(whole) * part // 10] for part in range(10)]
    contents += [random.bytes(int(size)) for size in random.integers(1, 300, 300)]
    path = tmp_path / "odd"
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=re.escape(f"{path}: cut short, or no ONNX file (")):
            read_header(path)
