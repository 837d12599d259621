"""A model's weights in 8 bits: a quarter of the bytes, nearly the same values."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from vidfit.quantization.backbone import with_8_bit_weights


def small_network() -> onnx.ModelProto:
    """A convolution, a product by Gemm (transposed and not) and one by MatMul; each channel has its own range."""
    random = np.random.default_rng(0)
    ranges = np.geomspace(0.1, 10, 64)
    weights = {
        "convolution": random.normal(size=(64, 32, 3, 3)) * ranges[:, None, None, None],
        "transposed": random.normal(size=(64, 64)) * ranges[:, None],
        "plain": random.normal(size=(64, 64)) * ranges,
        "product": random.normal(size=(64, 300)),
    }
    nodes = [
        helper.make_node("Conv", ["given", "convolution"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "transposed"], ["c"], transB=1),
        helper.make_node("Gemm", ["c", "plain"], ["d"]),
        helper.make_node("MatMul", ["d", "product"], ["result"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, ["B", 32, 3, 3])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, ["B", 300])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(model: onnx.ModelProto) -> np.ndarray:
    given = np.random.default_rng(1).normal(size=(5, 32, 3, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"given": given})[0])


def test_eight_bits_take_a_quarter_and_give_nearly_the_same():
    model = small_network()
    quantized = with_8_bit_weights(model)
    onnx.checker.check_model(quantized)
    assert quantized.ByteSize() < 0.36 * model.ByteSize()
    expected, found = values(model), values(quantized)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_small_weights_have_16_bits():
    kinds = {it.name: it.data_type for it in with_8_bit_weights(small_network()).graph.initializer}
    assert kinds["plain.halves"] == TensorProto.FLOAT16
    assert kinds["convolution.codes"] == TensorProto.INT8


def test_the_given_model_is_left_as_it_was():
    model = small_network()
    before = model.SerializeToString()
    with_8_bit_weights(model)
    assert model.SerializeToString() == before
