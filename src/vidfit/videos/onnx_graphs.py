"""Small changes to ONNX graphs: keep only what some outputs need, and store quantised weights as bytes."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


def prune(graph: onnx.GraphProto, outputs: Collection[str]) -> None:
    """Remove the nodes and constants that the values `outputs` do not need."""
    nodes, tensors = needed(graph, outputs)
    _replace(graph.node, nodes)
    _replace(graph.initializer, tensors)
    del graph.value_info[:]


def needed(
    graph: onnx.GraphProto, outputs: Collection[str], inputs: Collection[str] = ()
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants that lead to some values.

    Arguments:
        outputs: names of the values.
        inputs: names of values that are given, so that nothing before them is needed.
    """
    names, nodes = set(outputs) - set(inputs), []
    for node in reversed(graph.node):
        if names.intersection(node.output):
            nodes.append(node)
            names |= {*node.input, *_captured(node)} - set(inputs)
    return nodes[::-1], [tensor for tensor in graph.initializer if tensor.name in names]


def _captured(node: onnx.NodeProto) -> set[str]:
    """Values of the graph that the bodies of a node may read."""
    bodies = [it.g for it in node.attribute if it.HasField("g")]
    inner = [other for body in bodies for other in body.node]
    names = {name for other in inner for name in other.input} | {it.name for body in bodies for it in body.output}
    return names.union(*map(_captured, inner))


def _replace(field: Any, values: Sequence[Any]) -> None:
    del field[:]
    field.extend(values)


def store_quantized_weights(graph: onnx.GraphProto) -> None:
    """Store weights that a graph quantises when it is loaded as the uint8 codes that it would get.

    Signed codes are moved up by 128, with their zero points. So ONNX Runtime multiplies unsigned by unsigned bytes.
    That is exact on every processor. With signed weights, x86 without VNNI adds pairs of products in 16 bits, and they
    saturate silently.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    codes: dict[str, np.ndarray] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and all(name in tensors for name in node.input):
            values, scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input)
            codes[node.output[0]] = _codes(values, scale, zero, _axis(node))
        else:
            kept.append(node)
    for node in kept:
        if node.op_type == "DequantizeLinear" and node.input[0] in codes:
            zero = numpy_helper.to_array(tensors[node.input[2]])
            if zero.dtype == np.int8:
                node.input[2] += "_unsigned"
                tensors[node.input[2]] = numpy_helper.from_array(_unsigned(zero), node.input[2])
    tensors |= {name: numpy_helper.from_array(_unsigned(array), name) for name, array in codes.items()}
    needed = {name for node in kept for name in node.input}
    _replace(graph.node, kept)
    _replace(graph.initializer, [tensor for name, tensor in tensors.items() if name in needed])


def _axis(node: onnx.NodeProto) -> int:
    return next((it.i for it in node.attribute if it.name == "axis"), 1)


def _codes(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    """As QuantizeLinear."""
    if scale.ndim:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(values / scale) + zero.astype(np.float32), limits.min, limits.max).astype(zero.dtype)


def _unsigned(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(np.int16) + 128).astype(np.uint8) if codes.dtype == np.int8 else codes
