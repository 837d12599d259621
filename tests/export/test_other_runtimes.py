"""Packed files for Triton and for phones."""

import json
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient
from google.protobuf import text_format

import vidfit as library
from tests.conftest import Call, call
from tests.export.members import arrays, member
from tests.serving.models import write_video_model
from vidfit.export.graph import PackedMember, write_graph


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtimes") / "small.onnx"
    members = [PackedMember(member(name), 1.0) for name in ("frames max", "gru")]
    write_graph(path, members, 10**6, frame_probabilities=True)
    return path


@pytest.fixture(scope="module")
def phone(model: Path) -> Path:
    """The folder that the command writes for phones; ONNX Runtime's converter takes seconds."""
    folder = model.with_name("phone")
    assert call("export", model, folder, "--to", "ort") == 0
    return folder


def one_video() -> dict[str, np.ndarray]:
    """Pictures and sound of a few seconds."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    return {"images": images, "audio": random.normal(0, 0.1, 64_000).astype(np.float32)}


def tritons_schema() -> ModuleType:
    """The message types of Triton's configuration. Its package would import gRPC, which they do not need."""
    path = Path(tritonclient.__path__[0]) / "grpc" / "model_config_pb2.py"
    spec = spec_from_file_location("model_config_pb2", path)
    assert spec and spec.loader  # noqa: PT018 - for pyright
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that carries its extractor."""
    return write_video_model(tmp_path_factory.mktemp("one-file"), with_extractor=True)


@pytest.fixture(scope="module")
def parts(one_file: Path) -> Path:
    """The folder for phones of a file that carries its extractor."""
    folder = one_file.with_name("phone")
    assert call("export", one_file, folder, "--to", "ort") == 0
    return folder


@pytest.mark.parametrize("kind", ["model", "one_file"])
def test_triton_gets_the_file_and_what_it_takes(
    vidfit: Call, request: pytest.FixtureRequest, kind: str, tmp_path: Path
):
    model = request.getfixturevalue(kind)
    schema, folder = tritons_schema(), tmp_path / "repository" / "videos"
    assert vidfit("export", model, folder, "--to", "triton")[0] == 0
    assert sorted(str(it.relative_to(folder)) for it in folder.rglob("*")) == ["1", "1/model.onnx", "config.pbtxt"]
    assert (folder / "1" / "model.onnx").read_bytes() == model.read_bytes()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 0)
    session = onnxruntime.InferenceSession(model)
    types = {"tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    for told, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        shapes = [[size if isinstance(size, int) else -1 for size in put.shape] for put in real]
        assert [(it.name, schema.DataType.Name(it.data_type), list(it.dims)) for it in told] == [
            (put.name, types[put.type], shape) for put, shape in zip(real, shapes, strict=True)
        ]


def test_phones_get_the_same_probabilities(model: Path, phone: Path):
    inputs = arrays(2, 5)
    assert sorted(it.name for it in phone.iterdir()) == ["model.ort", "operators.config", "vidfit.json"]
    found, wanted = (onnxruntime.InferenceSession(it).run(None, inputs) for it in (phone / "model.ort", model))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-5)
    told, loaded = json.loads((phone / "vidfit.json").read_text()), library.load(model)
    assert told["vocabulary"] == list(loaded.vocabulary)
    assert told["modalities"] == {"rgb": 24, "audio": 8}
    assert told["thresholds"] == [0.5] * len(told["vocabulary"])


@pytest.mark.parametrize("suffix", ["onnx", "ort"])
def test_a_phone_runs_pictures_and_sounds_in_pieces(parts: Path, one_file: Path, suffix: str):
    told, video = json.loads((parts / "vidfit.json").read_text()), one_video()
    assert [told[name] for name in ("rate", "picture_time", "picture_size", "sound_window")] == [1.0, 0.5, 16, 15600]
    names = ("pictures", "sounds", "model")
    pictures, sounds, model = (onnxruntime.InferenceSession(parts / f"{name}.{suffix}") for name in names)
    windows = np.stack([video["audio"][start : start + 15600] for start in range(0, 64_000, 16_000)])
    pieces = [slice(0, 3), slice(3, 4)]
    rgb = np.concatenate([np.asarray(pictures.run(None, {"images": video["images"][it]})[0]) for it in pieces])
    audio = np.concatenate([np.asarray(sounds.run(None, {"windows": windows[it]})[0]) for it in pieces])
    features = {"rgb": rgb[None], "audio": audio[None], "num_frames": np.array([4])}
    (wanted,) = onnxruntime.InferenceSession(one_file).run(["probabilities"], video)
    (found,) = model.run(["probabilities"], features)
    # A byte of a feature may round the other way.
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=0.01)


def test_the_operators_for_phones_are_those_of_the_graph(model: Path, phone: Path):
    operators = set()
    for line in (phone / "operators.config").read_text().splitlines():
        domain, opset, names = line.split(";")
        assert domain in ("ai.onnx", "com.microsoft")
        assert opset.isdigit()
        operators |= set(names.split(","))
    # What ONNX Runtime's optimiser fuses has other names; a recurrent layer's loop stays.
    assert {"Scan", "Sigmoid"} <= operators & {node.op_type for node in onnx.load(model).graph.node}


@pytest.mark.parametrize("to", ["triton", "ort", "web-model", "web"])
@pytest.mark.parametrize("what", ["damaged", "missing", "a folder"])
def test_no_other_form_is_made_of_a_bad_file(vidfit: Call, one_file: Path, tmp_path: Path, to: str, what: str):
    path = tmp_path / "bad.onnx"
    if what == "a folder":
        path.mkdir()
    elif what == "damaged":
        content = bytearray(one_file.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    bundle = ("--bundle", tmp_path) if to == "web" else ()
    code, _, err = vidfit("export", path, tmp_path / "out", "--to", to, *bundle)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"vidfit: {path}: {'was changed or cut short' if what == 'damaged' else 'cannot be read'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["triton", "web"])
def test_a_name_that_is_not_utf8_is_exported(vidfit: Call, one_file: Path, tmp_path: Path, to: str):
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    path.write_bytes(one_file.read_bytes())
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / name).touch()
    bundle = ("--bundle", tmp_path) if to == "web" else ()
    code, _, err = vidfit("export", path, tmp_path / "out", "--to", to, *bundle)
    assert (code, err) == (0, "")
    if to == "web":
        assert json.loads((tmp_path / "out" / "model.json").read_text())["name"] == "caf\\udce9"


def test_a_file_that_is_no_packed_file_is_one_line(vidfit: Call, tmp_path: Path):
    (tmp_path / "text.onnx").write_text("nothing")
    for to in ("triton", "ort"):
        code, _, err = vidfit("export", tmp_path / "text.onnx", tmp_path / "out", "--to", to)
        assert (code, err.count("\n")) == (2, 1)
        assert not (tmp_path / "out").exists()
