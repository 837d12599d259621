"""Quantised convolutions give exact sums on every processor; what no output needs is removed."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from vidfit.videos.onnx_graphs import prune, store_quantized_weights


def quantized_convolution() -> onnx.ModelProto:
    """512 channels to 2 with float weights that the graph quantises itself, signed, and an output that nobody needs.

    All weights are near 127 and all values may be 255: sums of two products leave 16 bits.
    """
    weights = np.stack([np.full(512, 127.0), np.linspace(-127, 127, 512)])[:, :, None, None].astype(np.float32)
    constants = {
        "weights": weights,
        "one": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.int8),
        "step": np.float32(1),
        "zero": np.uint8(0),
        "step_out": np.float32(66000),
        "unused": np.ones(9, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["weights", "one", "zeros"], ["codes"], axis=0),
        helper.make_node("DequantizeLinear", ["codes", "one", "zeros"], ["kernel"], axis=0),
        helper.make_node("DequantizeLinear", ["given", "step", "zero"], ["values"]),
        helper.make_node("Conv", ["values", "kernel"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "step_out", "zero"], ["result"]),
        helper.make_node("Mul", ["values", "unused"], ["other"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("given", TensorProto.UINT8, ["B", 512, 1, 1])],
        [helper.make_tensor_value_info("result", TensorProto.UINT8, ["B", 2, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_sums_of_quantized_convolutions_do_not_saturate():
    model = quantized_convolution()
    store_quantized_weights(model.graph)
    onnx.checker.check_model(model)
    given = np.array([[255] * 512, list(range(256)) * 2], np.uint8)[:, :, None, None]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["result"], {"given": given})
    kernel = np.stack([np.full(512, 127.0), np.rint(np.linspace(-127, 127, 512))])
    expected = np.clip(np.rint(given[:, :, 0, 0].astype(float) @ kernel.T / 66000), 0, 255)
    np.testing.assert_array_equal(np.asarray(found)[:, :, 0, 0], expected)


def test_weights_are_stored_as_bytes():
    model = quantized_convolution()
    store_quantized_weights(model.graph)
    kinds = {it.name: (it.data_type, len(it.raw_data)) for it in model.graph.initializer}
    assert kinds["codes"] == (TensorProto.UINT8, 1024)
    assert "weights" not in kinds


def test_what_no_output_needs_is_removed():
    model = quantized_convolution()
    prune(model.graph, ["result"])
    assert "other" not in {name for node in model.graph.node for name in node.output}
    assert "unused" not in {it.name for it in model.graph.initializer}
    onnx.checker.check_model(model)
