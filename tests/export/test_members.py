"""Packed files of one member each, of every family: near PyTorch, row by row, with codes that stay packed.

An export takes seconds. So each file is made once, and with one modality. `test_graph.py` has two.
"""

from collections.abc import Callable
from functools import cache
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.export.members import (
    CLASSIFIERS,
    DECIDING,
    FAMILY_NAMES,
    RGB,
    SCHEMES,
    arrays,
    assert_loading_keeps_codes,
    assert_nothing_large_is_float,
    assert_padding_changes_nothing,
    assert_videos_do_not_depend_on_their_batch,
    float_member,
    loaded_graph,
    member,
    run,
    torch_average,
)
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.weight_formats import Int8Weight, weight_format
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.quantization.state import is_big
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme

SHAPES = [(1, 1), (1, 9), (2, 3), (7, 5), (3, 40), (9, 12)]
INT8_FILES = [(name, "8") for name in (*FAMILY_NAMES, "encoded netvlad")]
NARROW_FILES = [("gated", "4/channel"), ("gru", "4/channel"), ("wide", "4/channel"), ("wide", "6/channel")]
# In MatMulNBits, rows of a batch change each other slightly.
NBITS_FILES = [("wide", "4/channel"), ("wide", "6/channel")]
ROW_BY_ROW = [file for file in INT8_FILES + NARROW_FILES if file not in NBITS_FILES]
Alone = Callable[[str, str], Path]
Session = Callable[[str, str], onnxruntime.InferenceSession]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The file of one member, from its name and its scheme."""

    @cache
    def write(name: str, scheme: str) -> Path:
        path = tmp_path_factory.mktemp("alone") / "model.onnx"
        write_graph(path, [PackedMember(member(name, RGB, QuantScheme.parse(scheme)), 1.0)], 10_000_000)
        return path

    return write


@pytest.fixture(scope="module")
def session(alone: Alone) -> Session:
    """The same, opened once."""
    return cache(lambda name, scheme: onnxruntime.InferenceSession(alone(name, scheme)))


@pytest.mark.parametrize(("name", "scheme"), INT8_FILES + NARROW_FILES)
def test_integer_activations_are_near_float_ones(name: str, scheme: str, session: Session):
    original = float_member(name, RGB)
    quantized = PackedMember(original.quantized(QuantScheme.parse(scheme)), 1.0)
    batches = [arrays(*shape, spec=RGB) for shape in SHAPES]
    found = np.concatenate([run(session(name, scheme), inputs) for inputs in batches])
    exact, floats = (
        np.concatenate([torch_average([packed], inputs) for inputs in batches])
        for packed in (quantized, PackedMember(original, 1.0))
    )
    # No more than the rounding of weights costs, or a few thousandths.
    assert np.abs(found - exact).max() < max(3e-3, np.abs(exact - floats).max())
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("name", "scheme"), ROW_BY_ROW)
def test_a_video_does_not_depend_on_its_batch(name: str, scheme: str, session: Session):
    assert_videos_do_not_depend_on_their_batch(session(name, scheme), RGB)


@pytest.mark.parametrize(("name", "scheme"), INT8_FILES + NARROW_FILES)
def test_padding_changes_nothing(name: str, scheme: str, session: Session):
    assert_padding_changes_nothing(session(name, scheme), RGB)


@pytest.mark.parametrize(("name", "scheme"), INT8_FILES)
def test_weights_are_int8_in_the_file_and_after_loading(name: str, scheme: str, alone: Alone):
    big = [it.numel() for it in float_member(name, RGB).state.values() if isinstance(it, torch.Tensor) and is_big(it)]
    stored = onnx.load(alone(name, scheme)).graph.initializer
    codes = [int(np.prod(it.dims)) for it in stored if it.data_type == onnx.TensorProto.INT8 and it.dims]
    assert sum(codes) == sum(big)
    assert_nothing_large_is_float(stored)
    assert bool(big) == (not name.endswith("mean")), "all others have a tensor large enough"
    # Loading expands the centres of `wide`: no matmul multiplies them. It rounds the assignment weights of netvlad,
    # light and netfv to bytes: they are small, so the file holds floats.
    unpacked = {"wide": 24 * 720, "netvlad": -24 * 32, "light": -24 * 32, "netfv": -24 * 16}.get(name, 0)
    if big:
        assert_loading_keeps_codes(alone(name, scheme), onnx.TensorProto.INT8, unpacked)


@pytest.mark.parametrize(("name", "scheme"), INT8_FILES + NARROW_FILES)
def test_only_narrow_long_hidden_layers_need_other_operators(name: str, scheme: str, alone: Alone):
    domains = {"", "com.microsoft"} if (name, scheme) in NBITS_FILES else {""}
    assert {node.domain for node in onnx.load(alone(name, scheme)).graph.node} == domains


@pytest.mark.parametrize(
    ("name", "scheme", "bytes_stay"),
    [
        ("netvlad", "8", True),
        ("wide", "4/channel", True),
        ("netfv", "8", True),
        ("encoded netvlad", "8", False),
        ("gated", "8", False),
    ],
)
def test_which_members_have_frames_of_bytes(name: str, scheme: str, bytes_stay: bool, alone: Alone):
    assert multiplies_frames(alone(name, scheme), "rgb") == bytes_stay


def multiplies_frames(path: Path, modality: str) -> bool:
    """Whether frames are multiplied as they are read, or one after another."""
    frames, multiplied = {modality}, set()
    for node in onnx.load(path).graph.node:
        if node.op_type == "Reshape" and node.input[0] in frames:
            frames.add(node.output[0])
        if node.op_type == "MatMulInteger":
            multiplied.add(node.input[0])
    assert multiplied, "no product of bytes at all"
    return bool(frames & multiplied)


@pytest.mark.parametrize(
    ("name", "scheme", "rows"), [("wide", "8", [24]), ("wide", "4/channel", []), ("netvlad", "8", [])]
)
def test_which_descriptors_are_rounded_cluster_by_cluster(name: str, scheme: str, rows: list[int], alone: Alone):
    """Long ones that are multiplied as bytes; a cluster has as many values as its modality features."""
    nodes = onnx.load(alone(name, scheme)).graph.node
    flattened = {node.input[0] for node in nodes if node.op_type == "Reshape"}
    rounded = [node for node in nodes if node.op_type == "QuantizeLinear" and node.output[0] in flattened]
    assert [it.i for node in rounded for it in node.attribute if it.name == "block_size"] == rows


def test_float_members_give_what_pytorch_gives(tmp_path: Path):
    """Not `wide`, which is a netvlad, and one encoded family: the others see one modality either way."""
    names = [name for name in (*FAMILY_NAMES, "encoded mean", *DECIDING) if name != "wide"]
    assert {CLASSIFIERS[name]["family"]["type"] for name in names} == {
        it["family"]["type"] for it in CLASSIFIERS.values()
    }
    path, members = (
        tmp_path / "model.onnx",
        [PackedMember(float_member(name, RGB), 1.0) for name in dict.fromkeys(names)],
    )
    write_graph(path, members, 10_000_000)
    for videos, longest in ((1, 1), (1, 6), (2, 3), (5, 7)):
        inputs = arrays(videos, longest, spec=RGB)
        np.testing.assert_allclose(run(path, inputs), torch_average(members, inputs), atol=1e-6, rtol=1e-5)
    assert "MatMulInteger" not in {node.op_type for node in onnx.load(path).graph.node}, "floats were rounded"


def test_video_level_members_give_what_pytorch_gives(tmp_path: Path):
    spec = FeatureSpec(modalities=(Modality(name="mean_rgb", size=24, dtype="float32"),))
    members = [PackedMember(member(name, spec), 1.0) for name in ("mean", "netvlad", "encoded gated")]
    path = tmp_path / "model.onnx"
    write_graph(path, members, 10_000_000)
    inputs = onnxruntime.InferenceSession(path).get_inputs()
    assert [put.type for put in inputs] == ["tensor(float)", "tensor(int64)"]
    random = np.random.default_rng(0)
    for videos in (1, 5):
        values = random.normal(size=(videos, 1, 24)).astype(np.float32)
        batch = {"mean_rgb": values, "num_frames": np.ones(videos, np.int64)}
        # 5e-5 for each of them.
        np.testing.assert_allclose(run(path, batch), torch_average(members, batch), atol=5e-5 / 3, rtol=0)
    assert not multiplies_frames(path, "mean_rgb")


def test_a_portable_file_expands_its_codes_when_loaded(tmp_path: Path):
    path = tmp_path / "model.onnx"
    schemes = cycle(scheme for scheme in SCHEMES if scheme.bits < 8)
    members = []
    for name in ("gated", "wide"):
        original = float_member(name, RGB)
        own = {key: next(schemes) for key, tensor in original.state.items() if is_big(tensor)}
        members.append(PackedMember(original.quantized(own), 1.0))
    write_graph(path, members, 10_000_000, portable=True)
    inputs = arrays(5, 7, spec=RGB)
    # Not nearer, because assignments are rounded.
    np.testing.assert_allclose(run(path, inputs), torch_average(members, inputs), atol=1e-4, rtol=0)
    tensors = [it for packed in members for it in packed.member.state.values() if isinstance(it, QuantizedTensor)]
    assert {weight_format(it, nbits=False) for it in tensors} == {Int8Weight}
    assert_nothing_large_is_float(loaded_graph(path).initializer)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
