"""The SavedModel: what ONNX Runtime says, said by TensorFlow in a process that knows nothing of vidfit.

`make test-tensorflow` runs these in a virtual environment of their own.
"""

import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.corpus import LABELS
from tests.export.members import CLASSIFIERS, SCHEMES, SPEC, VIDEO_LEVEL, arrays, float_member, member
from vidfit.checksum import write_checksum
from vidfit.errors import ModelFileError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.metadata import CHECKSUM, properties
from vidfit.quantization.state import is_big
from vidfit.quantization.uniform import QuantScheme

pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="no TensorFlow here; make test-tensorflow")

# What docs/guide/deploying.md shows, for several inputs.
RUN = """
import sys
import numpy as np
import tensorflow as tf

folder, *files = sys.argv[1:]
predict = tf.saved_model.load(folder).signatures["serving_default"]
for file in files:
    found = predict(**{name: tf.constant(array) for name, array in np.load(file).items()})
    np.savez(file + ".found.npz", **{name: tensor.numpy() for name, tensor in found.items()})
assert not {"vidfit", "torch", "onnx", "onnxruntime"} & set(sys.modules)
"""


def vidfit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: TensorFlow warns of itself, and warnings are errors in ours."""
    return subprocess.run([sys.executable, "-m", "vidfit", *map(str, arguments)], capture_output=True, text=True)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of standard error; above it TensorFlow greets."""
    return done.stderr.splitlines()[-1]


def assert_agree(model: Path, saved: Path, scratch: Path, inputs: list[dict[str, np.ndarray]], atol: float) -> None:
    session = onnxruntime.InferenceSession(model)
    names = [put.name for put in session.get_outputs()]
    files = [scratch / f"{number}.npz" for number in range(len(inputs))]
    for file, arrays_ in zip(files, inputs, strict=True):
        np.savez(file, **arrays_)  # type: ignore[arg-type] - its stub takes them for options
    subprocess.run([sys.executable, "-c", RUN, str(saved), *map(str, files)], check=True, cwd=scratch)
    for file, arrays_ in zip(files, inputs, strict=True):
        found = np.load(f"{file}.found.npz")
        assert sorted(found) == sorted(names)
        for name, expected in zip(names, session.run(names, arrays_), strict=True):
            expected = np.asarray(expected)
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape), name
            np.testing.assert_allclose(found[name], expected, atol=atol, rtol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All families with another scheme for every tensor, and recurrent members of floats."""
    schemes = cycle(SCHEMES[::-1])
    members = [float_member(name) for name in ("lstm", "gru")]
    for name in CLASSIFIERS:
        original = float_member(name)
        own = {key: next(schemes) for key, tensor in original.state.items() if is_big(tensor)}
        members.append(original.quantized(own))
    path = tmp_path_factory.mktemp("packed") / "model.onnx"
    write_graph(
        path,
        [PackedMember(packed, weight) for weight, packed in enumerate(members, start=1)],
        10_000_000,
        portable=True,
    )
    return path


@pytest.fixture(scope="module")
def saved(everything: Path) -> Path:
    folder = everything.with_name("saved")
    done = vidfit("export", everything, "--to", "tensorflow", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}: ")
    return folder


def test_tensorflow_alone_says_what_onnxruntime_says(everything: Path, saved: Path, tmp_path: Path):
    shapes = [(1, 1), (1, 9), (2, 3), (7, 5), (3, 40)]
    # To 1e-7, but where a rounding falls on the other side of a half: an assignment's level, or one of the 63 of an
    # LSTM's state, which all later steps see.
    assert_agree(everything, saved, tmp_path, [arrays(*shape) for shape in shapes], atol=1e-4)


def test_a_video_level_model(tmp_path: Path):
    model, folder = tmp_path / "model.onnx", tmp_path / "saved"
    write_graph(model, [PackedMember(member("netvlad", VIDEO_LEVEL), 1.0)], 10_000_000)
    assert vidfit("export", model, "--to", "tensorflow", folder).returncode == 0
    random = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {
        modality.name: random.normal(size=(3, 1, modality.size)).astype(np.float32)
        for modality in VIDEO_LEVEL.modalities
    }
    assert_agree(model, folder, tmp_path, [{**inputs, "num_frames": np.ones(3, np.int64)}], atol=1e-6)


def test_a_descriptor_that_is_rounded_in_parts(tmp_path: Path):
    """To 1e-4, as a rounding may be to the other side of a half."""
    model, folder = tmp_path / "model.onnx", tmp_path / "saved"
    write_graph(
        model, [PackedMember(member("wide", schemes=QuantScheme(bits=8, granularity="channel")), 1.0)], 10_000_000
    )
    done = vidfit("export", model, "--to", "tensorflow", folder)
    assert done.returncode == 0, done.stderr
    assert_agree(model, folder, tmp_path, [arrays(3, 7)], atol=1e-4)


def test_big_weights_are_stored_as_they_were(everything: Path, saved: Path):
    script = (
        "import sys, json, tensorflow as tf\n"
        "reader = tf.train.load_checkpoint(sys.argv[1])\n"
        "shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()\n"
        "print(json.dumps([[dtypes[name].name, shapes[name]] for name in shapes if dtypes[name] != tf.string]))\n"
    )
    command = [sys.executable, "-c", script, str(saved / "variables" / "variables")]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    stored = [
        [np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).name, list(tensor.dims)]
        for tensor in onnx.load(everything).graph.initializer
        if np.prod(tensor.dims) > 4096
    ]
    found = [variable for variable in told if np.prod(variable[1]) > 4096]
    assert sorted(found) == sorted(stored)
    assert {kind for kind, _ in stored} == {"int8", "uint8", "float32"}


def test_the_folder_is_as_large_as_the_file(tmp_path: Path):
    """Above two megabytes; below, what TensorFlow writes of a node is more than 5%."""
    model, folder = tmp_path / "model.onnx", tmp_path / "saved"
    info = float_member("netvlad").info
    family = info.classifier.family.model_copy(update={"hidden": 2048})
    info = info.model_copy(update={"classifier": info.classifier.model_copy(update={"family": family})})
    large = type(float_member("netvlad"))(info, dict(info.build().state_dict()))
    write_graph(model, [PackedMember(large.quantized(), 1.0)], 10_000_000)
    assert vidfit("export", model, "--to", "tensorflow", folder).returncode == 0
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert model.stat().st_size > 2_000_000
    assert size == pytest.approx(model.stat().st_size, rel=0.05)


def test_what_the_file_says_of_itself_goes_along(everything: Path, saved: Path):
    told = json.loads((saved / "vidfit.json").read_text(encoding="utf-8"))
    entries = {entry.key: entry.value for entry in onnx.load(everything).metadata_props}
    assert told["format"] == entries["vidfit.format"]
    assert told["vocabulary"] == list(LABELS)
    for key in ("spec", "members"):
        assert told[key] == json.loads(entries[f"vidfit.{key}"])


def test_a_folder_is_replaced_only_if_asked_and_only_a_saved_model(tmp_path: Path):
    model, folder = tmp_path / "model.onnx", tmp_path / "saved"
    write_graph(model, [PackedMember(member("mean"), 1.0)], 10_000_000)
    export = ("export", model, "--to", "tensorflow", folder)
    folder.mkdir()
    (folder / "precious").touch()
    done = vidfit(*export)
    assert (done.returncode, done.stdout) == (2, "")
    assert said(done) == f"vidfit: {folder}: exists already; choose another name or add --overwrite"
    done = vidfit(*export, "--overwrite")
    assert done.returncode == 2
    assert "holds no saved_model.pb, so it is not replaced" in said(done)
    (folder / "saved_model.pb").touch()
    assert vidfit(*export, "--overwrite").returncode == 0
    assert sorted(file.name for file in folder.iterdir()) == [
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
        "vidfit.json",
    ]
    assert sorted(tmp_path.iterdir()) == [model, folder]


def refusal(model: Path) -> str:
    """What is said of a file that is not exported, which leaves nothing. In this process: TensorFlow loads slowly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vidfit.export.tensorflow import write_saved_model
    with pytest.raises(ModelFileError) as caught:
        write_saved_model(model, model.with_name("saved"))
    assert list(model.parent.iterdir()) == [model]
    return str(caught.value)


def write_by_hand(
    path: Path, nodes: list[onnx.NodeProto], outputs: dict[str, int], weights: dict[str, Any], first: str = "rgb"
) -> None:
    """A packed file of given nodes; its inputs are those of `arrays`, the first with any name."""
    vectors = [("num_frames", TensorProto.INT64, ["B"])]
    puts = [(name, TensorProto.UINT8, ["B", "T", size]) for name, size in ((first, 24), ("audio", 8))]
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info(*put) for put in puts + vectors],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    helper.set_model_props(model, properties(SPEC, LABELS, [], None, frame_probabilities=False))
    onnx.save(model, path)
    write_checksum(path, CHECKSUM)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("Erf", ["floats"], ["probabilities"]), "the operator Erf cannot be written for TensorFlow"),
        (
            helper.make_node("FusedMatMul", ["floats", "floats"], ["probabilities"], domain="com.microsoft", transB=1),
            "the operator com.microsoft.FusedMatMul cannot",
        ),
        (
            helper.make_node("MatMul", ["floats", "floats"], ["probabilities"], transB=1),
            "the operator MatMul (",
        ),
        (
            helper.make_node("DequantizeLinear", ["rgb", "scales"], ["probabilities"], axis=2, block_size=2),
            "the operator DequantizeLinear (_dequantize_linear() got an unexpected keyword argument 'block_size')",
        ),
    ],
)
def test_what_is_not_mapped_is_named(node: onnx.NodeProto, named: str, tmp_path: Path):
    model = tmp_path / "model.onnx"
    nodes = [helper.make_node("Cast", ["rgb"], ["floats"], to=TensorProto.FLOAT), node]
    write_by_hand(model, nodes, {"probabilities": TensorProto.FLOAT}, {"scales": np.ones((1, 1, 12), np.float32)})
    assert refusal(model).startswith(f"{model}: {named}")


@pytest.mark.parametrize("name", ["my-features", "mean rgb", "_rgb", "déjà"])
def test_a_name_that_tensorflow_does_not_take(name: str, tmp_path: Path):
    model = tmp_path / "model.onnx"
    write_by_hand(model, [helper.make_node("Identity", [name], ["out"])], {"out": TensorProto.UINT8}, {}, name)
    assert refusal(model).startswith(f"{model}: TensorFlow takes no input of the name {name!r}; ")


def test_what_is_no_packed_file_is_refused(tmp_path: Path):
    model = tmp_path / "model.onnx"
    model.write_text("hello")
    assert refusal(model).startswith(f"{model}: cut short, or no ONNX file (")


def test_a_file_of_a_newer_vidfit_is_refused_in_plain_words(everything: Path, tmp_path: Path):
    packed, model = onnx.load(everything), tmp_path / "model.onnx"
    entries = {entry.key: entry.value for entry in packed.metadata_props}
    helper.set_model_props(packed, entries | {"vidfit.format": "2"})
    onnx.save(packed, model)
    assert refusal(model).startswith(f"{model}: a packed file of a newer vidfit (format 2; this one reads 1); install ")


def integer_operators(random: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, int], dict[str, Any]]:
    """Integer matmuls, 4-bit matmuls, a scan over the frames both ways, and what stands around them."""
    weights: dict[str, Any] = {
        # Seven bits: without VNNI, ONNX Runtime's sums of two products saturate in 16 bits.
        "b": random.integers(-64, 64, (24, 40), np.int8),
        "a_zero": np.uint8(7),
        "b_zero": np.int8(-3),
        "half": np.float32(0.5),
        "low": np.float32(-2),
        "hundred": np.float32(100),
        "between": np.float32(100.5),
        "three": np.int64(3),
        "last": np.array([-1]),
        "one": np.array([1]),
        "two": np.array([2]),
        "far": np.array([2**63 - 1]),
        "sizes": np.array([10, 14]),
        "flat": np.array([0, -1]),
        "wide": np.array([1, 1, 24]),
        "first": np.array([0, 1, 2]),
    }
    nodes: list[onnx.NodeProto] = []
    outputs: dict[str, int] = {}

    def add(kind: str, inputs: list[str], output: str, element: int | None = TensorProto.FLOAT, **attributes) -> None:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        if element is not None:
            outputs[output] = element

    add("Cast", ["rgb"], "bytes", to=TensorProto.FLOAT)
    add("Sub", ["bytes", "between"], "signed")
    add("Div", ["signed", "hundred"], "x")
    add("Div", ["num_frames", "three"], "third", TensorProto.INT64)
    add("MatMulInteger", ["rgb", "b", "a_zero", "b_zero"], "both_zeros", TensorProto.INT32)
    add("MatMulInteger", ["rgb", "b"], "no_zeros", TensorProto.INT32)
    add("Cast", ["num_frames"], "lengths", to=TensorProto.FLOAT)
    add("DequantizeLinear", ["no_zeros", "lengths"], "scale_a_video", axis=0)
    add("DequantizeLinear", ["rgb", "scale24", "zero24"], "scale_a_feature", axis=2)
    add("DequantizeLinear", ["rgb", "half", "a_zero"], "one_scale")
    weights["scale24"] = random.random(24).astype(np.float32)
    weights["zero24"] = random.integers(0, 256, 24, np.uint8)
    # Powers of two, as TensorFlow multiplies with the inverse, which otherwise may be on the other side of a half.
    weights["steps24"] = np.tile([-0.5, 0.25, 2, -4], 6).astype(np.float32)
    add("QuantizeLinear", ["signed", "steps24", "signed24"], "signed_bytes", TensorProto.INT8, axis=2)
    add("QuantizeLinear", ["signed", "half", "a_zero"], "bytes_again", TensorProto.UINT8)
    weights["signed24"] = random.integers(-9, 9, 24, np.int8)
    add("BitwiseXor", ["rgb", "a_zero"], "xor", TensorProto.UINT8)
    for kind in ("Abs", "Ceil", "Exp", "Floor", "Neg", "Sigmoid", "Tanh", "Relu", "Reciprocal", "Identity"):
        add(kind, ["x"], kind.lower())
    add("Round", ["signed"], "round")
    add("Log", ["exp"], "log")
    add("Sqrt", ["abs"], "sqrt")
    add("Clip", ["x", "low", "half"], "clip")
    add("Clip", ["x", "", "half"], "clip_above")
    add("Max", ["x", "low", "half"], "max")
    add("Min", ["x", "half"], "min")
    add("Less", ["x", "half"], "less", TensorProto.BOOL)
    # Only older files have these three.
    weights["square"], weights["pads"] = np.float32(2), np.array([0, 1, 0, 0, 2, 3])
    add("Greater", ["x", "half"], "greater", TensorProto.BOOL)
    add("Pow", ["x", "square"], "pow")
    add("Pad", ["x", "pads", "half"], "pad")
    add("Where", ["less", "x", "half"], "where")
    for kind in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL2"):
        add(kind, ["x", "last"], kind.lower())
        add(kind, ["x", "one"], f"{kind.lower()}_frames", keepdims=0)
    # A step a row, as that of a block, and a step a video.
    weights["quarter"], weights["four"] = np.float32(0.25), np.float32(4)
    for steps, values, more in (
        ("rows", "reducemax", {"axis": -1, "block_size": 24}),
        ("videos", "lengths", {"axis": 0}),
    ):
        add("Less", [values, "four"], f"few_{steps}", None)
        add("Where", [f"few_{steps}", "quarter", "four"], f"steps_{steps}", None)
        add("Cast", [f"few_{steps}"], f"zeros_{steps}", None, to=TensorProto.UINT8)
        quantized = ["signed", f"steps_{steps}", f"zeros_{steps}"]
        add("QuantizeLinear", quantized, f"bytes_{steps}", TensorProto.UINT8, **more)
    add("ReduceSum", ["x"], "sum_of_none", noop_with_empty_axes=1)
    add("ReduceSum", ["x"], "sum_of_all", keepdims=0)
    add("Slice", ["x", "one", "far", "two", "two"], "slice")
    nodes.append(helper.make_node("Split", ["x", "sizes"], ["left", "right"], axis=-1))
    nodes.append(helper.make_node("Split", ["x"], ["a1", "a2", "a3"], axis=2, num_outputs=3))
    outputs |= dict.fromkeys(("left", "right", "a1", "a3"), TensorProto.FLOAT)
    add("Reshape", ["x", "flat"], "reshape")
    add("Expand", ["reducemean", "wide"], "expand")
    add("Transpose", ["x"], "transpose", perm=[2, 0, 1])
    add("Unsqueeze", ["x", "first"], "unsqueeze")
    add("Squeeze", ["unsqueeze", "first"], "squeeze")
    add("Softmax", ["x"], "softmax", axis=1)
    add("Constant", [], "constant", None, value=numpy_helper.from_array(random.normal(size=(1, 24)).astype(np.float32)))
    add("Mul", ["constant", "x"], "mul")
    add("Shape", ["x"], "shape", TensorProto.INT64, start=0, end=2)
    add("ConstantOfShape", ["shape"], "ones", value=numpy_helper.from_array(np.ones(1, np.float32)))
    for bits in (4, 8):
        count = 40 * 2 * 16 * bits // 8
        weights[f"codes{bits}"] = random.integers(0, 256, count, np.uint8).reshape(40, 2, -1)
        weights[f"scales{bits}"] = random.normal(scale=0.01, size=(40, 2)).astype(np.float32)
        weights[f"zeros{bits}"] = random.integers(0, 256, (40, 2 * bits // 8), np.uint8)
        sizes: dict[str, Any] = {"K": 24, "N": 40, "bits": bits, "block_size": 16, "domain": "com.microsoft"}
        add("MatMulNBits", ["x", f"codes{bits}", f"scales{bits}"], f"nbits{bits}", **sizes)
        add("MatMulNBits", ["x", f"codes{bits}", f"scales{bits}", f"zeros{bits}"], f"nbits{bits}_zeros", **sizes)
    # A running state over the frames, the outer graph's `half` and a constant of its own within.
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["before", "half"], ["faded"]),
            helper.make_node("Add", ["faded", "frame"], ["sum"]),
            helper.make_node("Mul", ["sum", "double"], ["after"]),
            helper.make_node("Identity", ["faded"], ["seen"]),
        ],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("before", "frame")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("after", "seen")],
        [numpy_helper.from_array(np.full((), 2, np.float32), "double")],
    )
    add("Transpose", ["x"], "x_TBD", None, perm=[1, 0, 2])
    nodes.append(helper.make_node("Shape", ["x_TBD"], ["videos"], start=1, end=2))
    nodes.append(helper.make_node("Gather", ["x_TBD", "start"], ["begin"]))
    weights["start"] = np.int64(0)
    weights["matrix"], weights["row"] = (random.normal(size=(rows, 5)).astype(np.float32) for rows in (24, 1))
    add("Gemm", ["begin", "matrix", "row"], "gemm")
    for name, back in (("ahead", 0), ("back", 1)):
        options: dict[str, Any] = {"scan_input_directions": [back], "scan_output_directions": [back]}
        outputs |= {f"{name}_state": TensorProto.FLOAT, f"{name}_seen": TensorProto.FLOAT}
        scan = ["begin", "x_TBD"], [f"{name}_state", f"{name}_seen"]
        nodes.append(helper.make_node("Scan", *scan, body=body, num_scan_inputs=1, **options))
    return nodes, outputs, weights


def test_integer_forms_and_scans(tmp_path: Path):
    model, folder = tmp_path / "model.onnx", tmp_path / "saved"
    nodes, outputs, weights = integer_operators(np.random.default_rng(0))
    write_by_hand(model, nodes, outputs, weights)
    done = vidfit("export", model, "--to", "tensorflow", folder)
    assert done.returncode == 0, done.stderr
    assert_agree(model, folder, tmp_path, [arrays(1, 1), arrays(4, 7)], atol=1e-4)


def test_no_operator_is_mapped_that_is_not_tested(everything: Path):
    told = "import sys, vidfit.export.tensorflow_operators as module; print(*module.OPERATORS)"
    mapped = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split()
    by_hand = integer_operators(np.random.default_rng(0))[0]
    tested = {f"{node.domain}.{node.op_type}".lstrip(".") for node in [*onnx.load(everything).graph.node, *by_hand]}
    assert sorted(mapped) == sorted(tested)
