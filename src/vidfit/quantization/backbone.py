"""The model for pictures or sounds in 8 bits: weights as int8 codes, one scale per output channel.

ONNX Runtime expands them once, when it loads the file. So the model is as fast as in float32, its values do not depend
on the processor, and it needs no calibration. benchmarks/LOG.md compares it with integer convolutions.
"""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Smaller tensors stay in float32.
_FEWEST_VALUES: Final = 1024
_LARGEST: Final = 127


def with_8_bit_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large float32 weights of convolutions and matrix products are stored in 8 bits."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    tensors = {it.name: it for it in graph.initializer if it.data_type == TensorProto.FLOAT}
    expanding: list[onnx.NodeProto] = []
    for node in graph.node:
        axis = _output_axis(node)
        tensor = tensors.pop(node.input[1], None) if axis is not None else None
        if axis is None or tensor is None or np.prod(tensor.dims) < _FEWEST_VALUES:
            continue
        expanding += _quantize(graph, tensor, axis)
    nodes = [*expanding, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def _output_axis(node: onnx.NodeProto) -> int | None:
    """The axis of the outputs in a node's weight; None for a node without weight."""
    if node.op_type == "Gemm":
        return 0 if any(it.name == "transB" and it.i for it in node.attribute) else 1
    return {"Conv": 0, "MatMul": -1}.get(node.op_type)


def _quantize(graph: onnx.GraphProto, tensor: onnx.TensorProto, axis: int) -> list[onnx.NodeProto]:
    """Replace a tensor by its codes and scale; returns the nodes that make it of them."""
    values, name = numpy_helper.to_array(tensor), tensor.name
    others = tuple(other for other in range(values.ndim) if other != axis % values.ndim)
    scale = np.maximum(np.abs(values).max(others, keepdims=True) / _LARGEST, 1e-30).astype(np.float32)
    codes = np.rint(values / scale).astype(np.int8)
    graph.initializer.remove(tensor)
    graph.initializer.append(numpy_helper.from_array(codes, f"{name}.codes"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
    return [
        helper.make_node("Cast", [f"{name}.codes"], [f"{name}.floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.floats", f"{name}.scale"], [name]),
    ]
