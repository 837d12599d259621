"""The packed file: literal content, parity with PyTorch, 8 bits in the file, nothing of vidfit needed to run it."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf.message import EncodeError

from tests.corpus import LABELS, SIZES
from vidfit.errors import BudgetError, ModelFileError
from vidfit.export import graph
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.weight_formats import Int8Weight, weight_format
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.inference.packed_model import PackedModel
from vidfit.inference.predictor import load
from vidfit.models.classifier import ClassifierConfig
from vidfit.quantization.member import Member
from vidfit.quantization.state import Schemes, flatten_state, is_big, stored_codes
from vidfit.quantization.uniform import INT8, QuantizedTensor, QuantScheme
from vidfit.training.checkpoint import MemberInfo, save_member

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=24), Modality(name="audio", size=8)))
VIDEO_LEVEL = FeatureSpec(
    modalities=(
        Modality(name="mean_rgb", size=24, dtype="float32"),
        Modality(name="mean_audio", size=8, dtype="float32"),
    )
)
KEYS = ("format", "spec", "vocabulary", "members", "frame_probabilities", "crc32c")
LOGISTIC = {"type": "logistic"}
ENCODER = {"hidden": 40, "dropout": 0.1}
CLASSIFIERS = {
    "mean": {"family": {"type": "mean"}, "head": LOGISTIC},
    "netvlad": {"family": {"type": "netvlad", "clusters": 32, "hidden": 64}, "head": {"type": "moe", "experts": 2}},
    "light": {"family": {"type": "netvlad", "clusters": 32, "hidden": 64, "light": True}, "head": LOGISTIC},
    "netfv": {"family": {"type": "netfv", "clusters": 16, "hidden": 64}, "head": {**LOGISTIC, "label_gating": True}},
    "gated": {"family": {"type": "dbof", "clusters": 1024, "hidden": 32}, "head": LOGISTIC},
    "soft": {"family": {"type": "dbof", "clusters": 1024, "hidden": 32, "pooling": "soft"}, "head": LOGISTIC},
    # Large enough that assignment weights of rgb are quantised; those of audio are not.
    "wide": {
        "family": {"type": "netvlad", "clusters": {"rgb": 720, "audio": 8}, "hidden": 16},
        "head": LOGISTIC,
    },
    "lstm": {"family": {"type": "lstm", "cells": 160}, "head": LOGISTIC},
    "gru": {"family": {"type": "gru", "cells": 160, "gating": True}, "head": LOGISTIC},
}
ORIGINAL = list(CLASSIFIERS)
DECIDING = {
    f"frames {pooling}": {
        "encoder": {"hidden": [120, 150]},
        "family": {"type": "frame-classifier", "pooling": pooling},
    }
    for pooling in ("max", "attention", "log-sum-exp", "mean", "noisy-or")
}
CLASSIFIERS |= {
    "attention": {"family": {"type": "attention", "values": 560, "hidden": 64}, "head": LOGISTIC},
    "nextvlad": {
        "family": {
            "type": "nextvlad",
            "clusters": {"rgb": 50, "audio": 8},
            "groups": {"rgb": 8, "audio": 4},
            "hidden": 64,
            "reduction": 4,
        },
        "head": LOGISTIC,
    },
    **{name: DECIDING[name] for name in ("frames max", "frames attention")},
}
FAMILIES = list(CLASSIFIERS)
CLASSIFIERS |= {
    f"encoded {name}": {**CLASSIFIERS[name], "encoder": ENCODER} for name in ("mean", "netvlad", "gated", "gru")
}
CLASSIFIERS |= DECIDING


def member(name: str, spec: FeatureSpec = SPEC, schemes: Schemes = INT8) -> Member:
    """A member with random weights and batch-norm statistics; its big tensors are quantised."""
    return float_member(name, spec).quantized(schemes)


def float_member(name: str, spec: FeatureSpec = SPEC) -> Member:
    torch.manual_seed(sum(name.encode()))
    info = MemberInfo(
        name=name,
        classifier=ClassifierConfig.model_validate(CLASSIFIERS[name]),
        spec=spec,
        vocabulary=LABELS,
        step=1,
        gap_validation=0.5,
    )
    model = info.build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return Member(info, dict(model.state_dict()))


def arrays(videos: int, longest: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    frames = {name: random.integers(0, 256, (videos, longest, size), dtype=np.uint8) for name, size in SIZES.items()}
    return {**frames, "num_frames": random.integers(1, longest + 1, videos)}


def torch_average(members: list[PackedMember], inputs: dict[str, np.ndarray]) -> np.ndarray:
    frames = {name: torch.from_numpy(values) for name, values in inputs.items() if name != "num_frames"}
    total = sum(packed.weight for packed in members)
    with torch.inference_mode():
        return np.sum(
            [
                packed.weight
                / total
                * packed.member.classifier()(frames, torch.from_numpy(inputs["num_frames"])).numpy()
                for packed in members
            ],
            axis=0,
        )


@pytest.fixture(scope="module")
def everything() -> list[PackedMember]:
    # An export takes seconds for each member, and the others are exported alone.
    names = [*ORIGINAL, "encoded netvlad", "frames attention"]
    return [PackedMember(member(name), weight) for weight, name in enumerate(names, start=1)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, everything: list[PackedMember]) -> Path:
    """All families in one file."""
    path = tmp_path_factory.mktemp("packed") / "model.onnx"
    write_graph(path, everything, 10_000_000)
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The file of one member: its name, its scheme or None for floats, and whether it is at video level.

    An export takes seconds, so there is one of each.
    """

    @cache
    def write(name: str, scheme: str | None, video_level: bool) -> Path:
        spec = VIDEO_LEVEL if video_level else SPEC
        path, original = tmp_path_factory.mktemp("alone") / "model.onnx", float_member(name, spec)
        if scheme is not None:
            original = original.quantized(QuantScheme.parse(scheme))
        write_graph(path, [PackedMember(original, 1.0)], 10_000_000)
        return path

    return lambda name, scheme, video_level=False: write(name, scheme, video_level)


def test_float_members_give_what_pytorch_gives(tmp_path: Path):
    members = [PackedMember(float_member(name), 1.0) for name in CLASSIFIERS]
    write_graph(tmp_path / "model.onnx", members, 10_000_000)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for videos, longest in ((1, 1), (1, 6), (2, 3), (5, 7)):
        inputs = arrays(videos, longest)
        (found,) = session.run(["probabilities"], inputs)
        np.testing.assert_allclose(np.asarray(found), torch_average(members, inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("videos", "longest"), [(1, 1), (1, 9), (2, 3), (7, 5), (3, 40)])
def test_the_file_gives_what_the_members_give(packed: Path, everything: list[PackedMember], videos: int, longest: int):
    inputs = arrays(videos, longest)
    (found,) = onnxruntime.InferenceSession(packed).run(["probabilities"], inputs)
    # Activations are rounded to bytes: recurrent members, which see their own rounding again, move most.
    np.testing.assert_allclose(np.asarray(found), torch_average(everything, inputs), atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(name, "8") for name in FAMILIES]
    + [(name, "4/channel") for name in ("gated", "gru", "wide")]
    + [("wide", "6/channel")],
)
def test_a_member_with_integer_activations_is_near_the_one_with_float_ones(
    name: str, scheme: str, alone: Callable[..., Path]
):
    original = float_member(name)
    quantised = PackedMember(original.quantized(QuantScheme.parse(scheme)), 1.0)
    inputs = arrays(9, 12)
    (found,) = onnxruntime.InferenceSession(alone(name, scheme)).run(["probabilities"], inputs)
    exact, floats = torch_average([quantised], inputs), torch_average([PackedMember(original, 1.0)], inputs)
    # No more than the rounding of weights costs, or a few thousandths.
    assert np.abs(np.asarray(found) - exact).max() < max(3e-3, np.abs(exact - floats).max())
    assert np.corrcoef(np.asarray(found).ravel(), exact.ravel())[0, 1] > 0.98


def test_a_video_does_not_depend_on_its_batch(packed: Path, tmp_path: Path):
    narrow, schemes = tmp_path / "model.onnx", {"netvlad": "6/channel", "gated": "4/channel", "gru": "8/channel"}
    members = [PackedMember(member(name, schemes=QuantScheme.parse(scheme)), 1.0) for name, scheme in schemes.items()]
    write_graph(narrow, members, 10_000_000)
    for path in (packed, narrow):
        assert_videos_do_not_depend_on_their_batch(path)


def assert_videos_do_not_depend_on_their_batch(path: Path) -> None:
    session, inputs = onnxruntime.InferenceSession(path), arrays(8, 11)
    (together,) = session.run(["probabilities"], inputs)
    for video, frames in enumerate(inputs["num_frames"]):
        alone = {name: array[video : video + 1, :frames] for name, array in inputs.items() if name in SIZES}
        (found,) = session.run(["probabilities"], {**alone, "num_frames": inputs["num_frames"][video : video + 1]})
        np.testing.assert_allclose(np.asarray(found)[0], np.asarray(together)[video], atol=1e-5)


def test_portable_files_have_standard_operators_alone(alone: Callable[..., Path], tmp_path: Path):
    portable, scheme = tmp_path / "model.onnx", "4/channel"
    members = [PackedMember(member(name, schemes=QuantScheme.parse(scheme)), 1.0) for name in ("gru", "wide")]
    write_graph(portable, members, 10_000_000, portable=True)
    for path, domains in ((portable, {""}), (alone("wide", scheme), {"", "com.microsoft"})):
        assert {node.domain for node in onnx.load(path).graph.node} == domains


def test_padding_changes_nothing(packed: Path):
    inputs = arrays(4, 6)
    session = onnxruntime.InferenceSession(packed)
    noise = arrays(4, 5, seed=1)
    padded = {name: np.concatenate([inputs[name], noise[name]], axis=1) for name in SIZES}
    (short,) = session.run(None, inputs)
    (long,) = session.run(None, {**padded, "num_frames": inputs["num_frames"]})
    np.testing.assert_allclose(np.asarray(short), np.asarray(long), atol=1e-6)


def test_quantised_weights_are_int8_in_the_file_and_nothing_large_is_float(
    packed: Path, everything: list[PackedMember]
):
    graph = onnx.load(packed).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    codes = [tensor for tensor in stored.values() if tensor.data_type == onnx.TensorProto.INT8]
    small = [packed.member.info.name for packed in everything if packed.member.bits == 32]
    assert small == ["mean"], "all others have a tensor large enough"
    assert len(codes) >= len(everything) - len(small)
    assert_nothing_large_is_float(stored.values())


def test_quantised_weights_stay_int8_after_loading(packed: Path, tmp_path: Path):
    # The centres of `wide` become floats: they are small, and stand beside no matmul.
    centres = 24 * 720
    # Assignment weights of netvlad, light and netfv become bytes: they are floats in the file, as they are small.
    rounded = (32 + 32 + 16) * (24 + 8)
    assert_loading_keeps_codes(packed, onnx.TensorProto.INT8, tmp_path / "optimised.onnx", centres - rounded)


def assert_loading_keeps_codes(path: Path, kind: int, optimised: Path, unpacked: int = 0) -> None:
    """ONNX Runtime must not fold codes into float matrices: they would take four times the memory.

    `unpacked` bytes of packed codes may become one byte per code.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    before, after = (onnx.load(file).graph for file in (path, optimised))
    assert len(after.node) < len(before.node), "nothing was optimised"
    assert_nothing_large_is_float(after.initializer)
    sizes = [
        [int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type == kind]
        for graph in (before, after)
    ]
    # Not the numbers of bits that codes are shifted by.
    elements = [sum(size for size in of_graph if size > 8) for of_graph in sizes]
    assert elements[0] - unpacked == elements[1] > 17_000


def assert_nothing_large_is_float(initializers: Iterable[onnx.TensorProto]) -> None:
    for tensor in initializers:
        in_8_bits = tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        # Centres of `wide`, floats once the file is loaded, are 17,280.
        assert in_8_bits or int(np.prod(tensor.dims)) <= 17_280, tensor.name


SCHEMES = [
    QuantScheme(bits=bits, granularity=granularity) for bits in range(2, 9) for granularity in ("tensor", "channel")
]


def test_every_scheme_is_computed_as_pytorch_does(tmp_path: Path):
    """One matrix of 150 inputs each."""
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=118), Modality(name="audio", size=32)))
    info = float_member("mean").info.model_copy(update={"spec": spec, "vocabulary": tuple(map(str, range(120)))})
    members = [PackedMember(Member(info, dict(info.build().state_dict())).quantized(scheme), 1.0) for scheme in SCHEMES]
    path = tmp_path / "model.onnx"
    described = write_graph(path, members, 10_000_000, portable=True)
    session = onnxruntime.InferenceSession(path)
    random = np.random.default_rng(0)
    inputs = {m.name: random.integers(0, 256, (4, 6, m.size), dtype=np.uint8) for m in spec.modalities}
    inputs["num_frames"] = np.array([6, 1, 3, 5])
    (found,) = session.run(["probabilities"], inputs)
    np.testing.assert_allclose(np.asarray(found), torch_average(members, inputs), atol=1e-5, rtol=0)
    for scheme, row, packed in zip(SCHEMES, described, members, strict=True):
        tensor = packed.member.state["head.classifier.weights"]
        assert isinstance(tensor, QuantizedTensor)
        assert row["bits"] == scheme.bits
        own = {"name": "head.classifier.weights", "shape": list(tensor.codes.shape), "scheme": str(scheme)}
        assert row["tensors"] == [{**own, "bytes": tensor.nbytes}]
    # Nodes and names, and the biases; were scales stored in single precision, there would be 100 kB more.
    stored = sum(tensor.nbytes for packed in members for tensor in packed.member.state.values())
    assert stored < path.stat().st_size < stored + 8_000 * len(members)


def test_members_with_mixed_schemes_stay_packed_after_loading(tmp_path: Path):
    path = tmp_path / "model.onnx"
    schemes = cycle(scheme for scheme in SCHEMES if scheme.bits < 8)
    members = []
    for name in ("netvlad", "netfv", "gated", "wide"):
        original = float_member(name)
        own = {key: next(schemes) for key, tensor in original.state.items() if is_big(tensor)}
        members.append(PackedMember(original.quantized(own), 1.0))
    write_graph(path, members, 10_000_000, portable=True)
    inputs = arrays(5, 7)
    (found,) = onnxruntime.InferenceSession(path).run(["probabilities"], inputs)
    # Not nearer, because assignments are rounded.
    np.testing.assert_allclose(np.asarray(found), torch_average(members, inputs), atol=1e-4, rtol=0)
    tensors = [it for packed in members for it in packed.member.state.values() if isinstance(it, QuantizedTensor)]
    unpacked = sum(stored_codes(it).numel() for it in tensors if weight_format(it, nbits=False) is Int8Weight)
    assert 0 < unpacked < sum(stored_codes(it).numel() for it in tensors)
    assert_loading_keeps_codes(path, onnx.TensorProto.UINT8, tmp_path / "optimised.onnx", unpacked)


def test_operators_bear_their_members_name(packed: Path, everything: list[PackedMember]):
    """So that ONNX Runtime's profile tells what each member costs."""
    names = [node.name for node in onnx.load(packed).graph.node]
    assert len(set(names)) == len(names)
    owners = [name.partition("/")[0] for name in names]
    assert all(owners.count(it.member.info.name) > 5 for it in everything)


@pytest.mark.parametrize(
    ("name", "scheme", "spec", "bytes_stay"),
    [
        ("netvlad", "8", SPEC, True),
        ("wide", "4/channel", SPEC, True),
        ("netfv", "8", SPEC, True),
        ("netvlad", None, SPEC, False),
        ("encoded netvlad", "8", SPEC, False),
        ("netvlad", "8", VIDEO_LEVEL, False),
        ("gated", "8", SPEC, False),
    ],
)
def test_which_members_have_frames_of_bytes(
    name: str, scheme: str | None, spec: FeatureSpec, bytes_stay: bool, alone: Callable[..., Path]
):
    # As they are read, or one after another.
    frames, multiplied = set(SIZES), set()
    for node in onnx.load(alone(name, scheme, spec is VIDEO_LEVEL)).graph.node:
        if node.op_type == "Reshape" and node.input[0] in frames:
            frames.add(node.output[0])
        if node.op_type == "MatMulInteger":
            multiplied.add(node.input[0])
    assert bool(frames & multiplied) == bytes_stay


@pytest.mark.parametrize(
    ("name", "scheme", "rows"), [("wide", "8/channel", [24, 8]), ("wide", "4/channel", []), ("netvlad", "8", [])]
)
def test_which_descriptors_are_rounded_cluster_by_cluster(
    name: str, scheme: str, rows: list[int], alone: Callable[..., Path]
):
    """Long ones that are multiplied as bytes; a cluster has as many values as its modality features."""
    nodes = onnx.load(alone(name, scheme)).graph.node
    flattened = {node.input[0] for node in nodes if node.op_type == "Reshape"}
    rounded = [node for node in nodes if node.op_type == "QuantizeLinear" and node.output[0] in flattened]
    assert [it.i for node in rounded for it in node.attribute if it.name == "block_size"] == rows


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
    (tensor,) = members[2]["tensors"]
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


@pytest.mark.parametrize("name", ["mean", "netvlad", "encoded gated"])
def test_a_video_level_member(name: str, tmp_path: Path):
    members = [PackedMember(member(name, VIDEO_LEVEL), 1.0)]
    write_graph(tmp_path / "model.onnx", members, 10_000_000)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [put.type for put in session.get_inputs()] == ["tensor(float)", "tensor(float)", "tensor(int64)"]
    random = np.random.default_rng(0)
    for videos in (1, 5):
        inputs: dict[str, np.ndarray] = {
            modality.name: random.normal(size=(videos, 1, modality.size)).astype(np.float32)
            for modality in VIDEO_LEVEL.modalities
        }
        inputs["num_frames"] = np.ones(videos, np.int64)
        (found,) = session.run(["probabilities"], inputs)
        np.testing.assert_allclose(np.asarray(found), torch_average(members, inputs), atol=5e-5, rtol=0)


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


def test_a_file_above_the_budget_is_not_left(tmp_path: Path):
    path = tmp_path / "model.onnx"
    members = [PackedMember(member("mean"), 1.0)]
    write_graph(path, members, 10_000_000)
    size = path.stat().st_size
    path.unlink()
    with pytest.raises(BudgetError, match=f"the finished file takes {size:,} bytes, 1 over the budget of {size - 1:,}"):
        write_graph(path, members, size - 1)
    assert list(tmp_path.iterdir()) == []
    write_graph(path, members, size)
    assert path.stat().st_size == size


def test_weights_that_cannot_fit_are_refused_before_the_export(tmp_path: Path):
    with pytest.raises(BudgetError, match=r"the weights alone take .* over the budget of 1,000"):
        write_graph(tmp_path / "model.onnx", [PackedMember(member("netvlad"), 1.0)], 1000)


def test_weights_beyond_the_format_are_told_from_those_beyond_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(graph, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(BudgetError, match=r"the weights alone take [\d,]+ bytes; an ONNX file holds at most 2 GiB"):
        write_graph(tmp_path / "model.onnx", [PackedMember(member("netvlad"), 1.0)], 10_000_000)


@pytest.mark.parametrize("error", [EncodeError("Failed to serialize proto"), ValueError("exceeds 2GB")])
def test_what_protobuf_cannot_write_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(program: torch.onnx.ONNXProgram):
        raise error

    monkeypatch.setattr(torch.onnx.ONNXProgram, "model_proto", property(fail))
    with pytest.raises(BudgetError, match="an ONNX file holds at most 2 GiB"):
        write_graph(tmp_path / "model.onnx", [PackedMember(member("mean"), 1.0)], 10_000_000)
    assert list(tmp_path.iterdir()) == []


def test_members_of_other_data_are_refused(tmp_path: Path):
    other = FeatureSpec(modalities=(Modality(name="audio", size=8),))
    members = [PackedMember(member("mean"), 1.0), PackedMember(member("mean", other), 1.0)]
    with pytest.raises(ModelFileError, match="trained on other features or labels"):
        write_graph(tmp_path / "model.onnx", members, 10_000_000)


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path):
    """A real one: the operating system writes no more than 10 kB to a file."""
    source, path = tmp_path / "member.safetensors", tmp_path / "model.onnx"
    netvlad = member("netvlad")
    save_member(source, netvlad.info, flatten_state(netvlad.state))
    path.write_bytes(b"what stood here")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from vidfit.quantization.member import load_member\n"
        "from vidfit.errors import OutputError\n"
        "from vidfit.export.graph import PackedMember, write_graph\n"
        "member = load_member(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    write_graph(Path(sys.argv[2]), [PackedMember(member, 1.0)], 10_000_000)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(source), str(path)]
    told = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    assert told == f"{path}: cannot be written (File too large); raise the limit (ulimit -f) or choose another place\n"
    assert path.read_bytes() == b"what stood here"
    assert sorted(tmp_path.iterdir()) == [source, path]


@pytest.fixture(scope="module")
def deciding() -> list[PackedMember]:
    """Frame classifiers with enough labels that the weights of decisions are quantised, and another family."""
    labels = tuple(map(str, range(120)))
    members = []
    for name, weight in (("frames max", 1.0), ("mean", 5.0), ("frames attention", 2.0)):
        original = float_member(name)
        info = original.info.model_copy(update={"vocabulary": labels})
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
    model, inputs = PackedModel(path, 1), arrays(6, 9)
    lengths_B = inputs["num_frames"]
    frames = {name: inputs[name] for name in SIZES}
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
    assert_videos_do_not_depend_on_their_batch(path)


def test_frame_probabilities_need_a_frame_classifier(tmp_path: Path):
    with pytest.raises(ModelFileError, match="none of the packed members is a frame-classifier"):
        write_graph(tmp_path / "m.onnx", [PackedMember(member("mean"), 1.0)], 10_000_000, frame_probabilities=True)
    assert not list(tmp_path.iterdir())


def test_a_file_without_frame_probabilities_says_so(packed: Path):
    model, inputs = load(packed), arrays(2, 3)
    assert not model.has_frame_probabilities
    with pytest.raises(ModelFileError, match="no frame probabilities; train a frame-classifier and pack it"):
        model.predict_frames({name: inputs[name] for name in SIZES}, inputs["num_frames"])
