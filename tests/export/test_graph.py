"""The packed file of several members: literal content, the weighted average, nothing of vidfit needed to run it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.corpus import LABELS, SIZES
from tests.export.members import (
    RGB,
    arrays,
    assert_loading_keeps_codes,
    assert_padding_changes_nothing,
    assert_videos_do_not_depend_on_their_batch,
    float_member,
    member,
    run,
    torch_average,
)
from vidfit.errors import ModelFileError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.inference.packed_model import PackedModel
from vidfit.inference.predictor import load
from vidfit.quantization.member import Member
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme

KEYS = ("format", "spec", "vocabulary", "members", "frame_probabilities", "thresholds", "crc32c")
LONG_LABELS = tuple(map(str, range(120)))


@pytest.fixture(scope="module")
def everything() -> list[PackedMember]:
    """No big tensor, one of descriptors of two modalities, one of an encoder; `test_members.py` has all families."""
    return [
        PackedMember(member(name), weight) for name, weight in (("mean", 7), ("netvlad", 1), ("frames attention", 2))
    ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, everything: list[PackedMember]) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.onnx"
    write_graph(path, everything, 10_000_000)
    return path


@pytest.mark.parametrize(("videos", "longest"), [(1, 1), (1, 9), (2, 3), (7, 5), (3, 40)])
def test_the_file_gives_what_the_members_give(packed: Path, everything: list[PackedMember], videos: int, longest: int):
    inputs = arrays(videos, longest)
    # Activations are rounded to bytes.
    np.testing.assert_allclose(run(packed, inputs), torch_average(everything, inputs), atol=5e-4, rtol=0)


def test_neither_its_batch_nor_padding_changes_a_video(packed: Path):
    assert_videos_do_not_depend_on_their_batch(packed)
    assert_padding_changes_nothing(packed)


def test_weights_stay_int8_when_the_file_is_loaded(packed: Path):
    # Loading rounds the assignment weights of netvlad to bytes: they are small, so the file holds floats.
    assert_loading_keeps_codes(packed, onnx.TensorProto.INT8, -32 * (24 + 8))


def test_metadata_tells_each_members_scheme_and_bytes(tmp_path: Path):
    """One matrix of 150 inputs each; `test_weight_formats.py` has all schemes."""
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=150),))
    info = float_member("mean").info.model_copy(update={"spec": spec, "vocabulary": LONG_LABELS})
    schemes = [QuantScheme.parse(scheme) for scheme in ("2/channel", "5", "8/channel")]
    members = [PackedMember(Member(info, dict(info.build().state_dict())).quantized(scheme), 1.0) for scheme in schemes]
    path = tmp_path / "model.onnx"
    described = write_graph(path, members, 10_000_000)
    inputs = {**arrays(4, 6, spec=spec), "num_frames": np.array([6, 1, 3, 5])}
    np.testing.assert_allclose(run(path, inputs), torch_average(members, inputs), atol=1e-5, rtol=0)
    tensors = [packed.member.state["head.classifier.weights"] for packed in members]
    for scheme, row, tensor in zip(schemes, described, tensors, strict=True):
        assert isinstance(tensor, QuantizedTensor)
        assert row["bits"] == scheme.bits
        own = {"name": "head.classifier.weights", "shape": [150, 120], "scheme": str(scheme)}
        assert row["tensors"] == [{**own, "bytes": tensor.nbytes}]
    # Scales and offsets of outputs in half precision, as they are counted.
    stored = onnx.load(path).graph.initializer
    assert [list(it.dims) for it in stored if it.data_type == onnx.TensorProto.FLOAT16 and it.dims == [120]] == [
        [120]
    ] * 4
    # Nodes, and names of tensors; labels and what members share take 3 kB.
    total = sum(tensor.nbytes for packed in members for tensor in packed.member.state.values())
    assert total < path.stat().st_size < total + 3_000 + 5_000 * len(members)


def test_operators_bear_their_members_name(packed: Path, everything: list[PackedMember]):
    """So that ONNX Runtime's profile tells what each member costs."""
    names = [node.name for node in onnx.load(packed).graph.node]
    assert len(set(names)) == len(names)
    owners = [name.partition("/")[0] for name in names]
    assert all(owners.count(it.member.info.name) > 5 for it in everything)


def test_metadata_is_what_the_format_says(packed: Path, everything: list[PackedMember]):
    properties = {entry.key: entry.value for entry in onnx.load(packed).metadata_props}
    assert properties["vidfit.format"] == "1"
    assert json.loads(properties["vidfit.vocabulary"]) == list(LABELS)
    assert json.loads(properties["vidfit.spec"]) == {
        "modalities": [
            {"name": "rgb", "size": 24, "dtype": "uint8"},
            {"name": "audio", "size": 8, "dtype": "uint8"},
        ]
    }
    assert set(properties) == {f"vidfit.{key}" for key in KEYS}
    assert properties["vidfit.frame_probabilities"] == "false"
    members = json.loads(properties["vidfit.members"])
    assert [row["name"] for row in members] == [it.member.info.name for it in everything]
    assert [row["bits"] for row in members] == [32 if row["name"].endswith("mean") else 8 for row in members]
    (tensor,) = members[1]["tensors"]
    assert tensor == {"name": "family.hidden.weights", "shape": tensor["shape"], "scheme": "8", "bytes": 65_552}
    assert math.prod(tensor["shape"]) == 65_536
    assert sum(row["weight"] for row in members) == pytest.approx(1)
    assert members[1]["family"] == "netvlad"


def test_inputs_and_outputs_are_what_the_format_says(packed: Path):
    session = onnxruntime.InferenceSession(packed)
    assert [(put.name, put.type, put.shape) for put in session.get_inputs()] == [
        ("rgb", "tensor(uint8)", ["videos", "frames", 24]),
        ("audio", "tensor(uint8)", ["videos", "frames", 8]),
        ("num_frames", "tensor(int64)", ["videos"]),
    ]
    assert [(put.name, put.type, put.shape) for put in session.get_outputs()] == [
        ("probabilities", "tensor(float)", ["videos", 5])
    ]


def test_onnxruntime_alone_runs_the_file(packed: Path, everything: list[PackedMember], tmp_path: Path):
    inputs = arrays(3, 4)
    np.savez(tmp_path / "inputs.npz", **inputs)  # type: ignore[arg-type] - its stub takes them for options
    script = (
        "import sys, numpy, onnxruntime\n"
        "model, inputs, output = sys.argv[1:]\n"
        "(found,) = onnxruntime.InferenceSession(model).run(['probabilities'], dict(numpy.load(inputs)))\n"
        "numpy.save(output, found)\n"
        "assert not {'vidfit', 'torch', 'onnx'} & set(sys.modules)\n"
    )
    arguments = [str(packed), str(tmp_path / "inputs.npz"), str(tmp_path / "output.npy")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "output.npy"), torch_average(everything, inputs), atol=5e-4)


@pytest.fixture(scope="module")
def deciding() -> list[PackedMember]:
    """Frame classifiers with enough labels that the weights of decisions are quantised, and another family."""
    members = []
    for name, weight in (("frames max", 1.0), ("mean", 5.0), ("frames attention", 2.0)):
        original = float_member(name)
        info = original.info.model_copy(update={"vocabulary": LONG_LABELS, "spec": RGB})
        torch.manual_seed(0)
        model = info.build()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
        members.append(PackedMember(Member(info, dict(model.state_dict())).quantized(), weight))
    return members


def test_frame_probabilities_are_the_mean_over_frame_classifiers(deciding: list[PackedMember], tmp_path: Path):
    path = tmp_path / "model.onnx"
    write_graph(path, deciding, 10_000_000, frame_probabilities=True)
    assert isinstance(deciding[2].member.state["family.attention_weights"], QuantizedTensor)
    model, inputs = PackedModel(path, 1), arrays(6, 9, spec=RGB)
    lengths_B = inputs["num_frames"]
    frames = {"rgb": inputs["rgb"]}
    tensors = {name: torch.from_numpy(values) for name, values in frames.items()}
    with torch.inference_mode():
        expected_BTC = np.zeros((6, 9, 120), np.float32)
        for packed in (deciding[0], deciding[2]):
            _, own_BTC = packed.member.classifier().with_frames(tensors, torch.from_numpy(lengths_B))
            assert own_BTC is not None
            expected_BTC += packed.weight / 3 * own_BTC.numpy()
    found_BTC = load(path, threads=1).predict_frames(frames, lengths_B)
    real_BT = np.arange(9) < lengths_B[:, None]
    assert (found_BTC[~real_BT] == 0).all()
    np.testing.assert_allclose(found_BTC[real_BT], expected_BTC[real_BT], atol=1e-2, rtol=0)
    np.testing.assert_allclose(model(frames, lengths_B), torch_average(deciding, inputs), atol=1e-2, rtol=0)
    assert (model.info.frame_probabilities, found_BTC.shape) == (True, (6, 9, 120))
    assert [(put.name, put.shape) for put in onnxruntime.InferenceSession(path).get_outputs()] == [
        ("probabilities", ["videos", 120]),
        ("frame_probabilities", ["videos", "frames", 120]),
    ]
    assert_videos_do_not_depend_on_their_batch(path, RGB)


def test_odds_are_multiplied_and_no_ranking_changes(deciding: list[PackedMember], tmp_path: Path):
    outputs = []
    for odds in (1.0, 2.5):
        path, inputs = tmp_path / f"{odds}.onnx", arrays(6, 9, spec=RGB)
        write_graph(path, deciding, 10_000_000, frame_probabilities=True, odds=odds)
        outputs.append(onnxruntime.InferenceSession(path).run(None, inputs))
    for plain, scaled in zip(*outputs, strict=True):
        counted = np.isfinite(plain)
        p, q = plain[counted].astype(np.float64), scaled[counted].astype(np.float64)
        np.testing.assert_allclose(q, 2.5 * p / (1 + 1.5 * p), rtol=1e-5)
        assert (np.diff(q[np.argsort(p)]) >= 0).all()


def test_a_file_without_frame_probabilities_says_so(packed: Path):
    model, inputs = load(packed), arrays(2, 3)
    assert not model.has_frame_probabilities
    with pytest.raises(ModelFileError, match="no frame probabilities; train a frame-classifier and pack it"):
        model.predict_frames({name: inputs[name] for name in SIZES}, inputs["num_frames"])
