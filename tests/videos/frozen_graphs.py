"""Stand-ins for YouTube-8M's files: small networks of the same operators and names, with random weights.

Source of names and operators: the dumps of `classify_image_graph_def.pb` that others have published, and the VGGish of
tensorflow/models (`vggish_slim.py`).
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np


def matrix_file(path: Path, values: np.ndarray, by_rows: bool = False) -> None:
    """A MatrixData message, byte by byte as Protocol Buffers' encoding has it."""
    rows, cols = values.shape
    data = values.astype("<f4").tobytes("C" if by_rows else "F")
    content = b"\x08" + _varint(rows) + b"\x10" + _varint(cols) + b"\x1a" + _varint(len(data)) + data
    path.write_bytes(content + (b"\x20\x01" if by_rows else b""))


def _varint(number: int) -> bytes:
    return struct.pack("B", number) if number < 128 else struct.pack("B", number & 127 | 128) + _varint(number >> 7)


class FrozenGraph:
    """A GraphDef of TensorFlow, node by node."""

    def __init__(self, tf: Any, producer: int) -> None:
        self.tf = tf
        self.proto = tf.compat.v1.GraphDef()
        self.proto.versions.producer = producer
        self.random = np.random.default_rng(0)

    def add(self, name: str, operator: str, inputs: tuple[str, ...] = (), **attributes: Any) -> str:
        node = self.proto.node.add(name=name, op=operator, input=inputs)
        for key, value in attributes.items():
            attribute = node.attr[key]
            if isinstance(value, bool):
                attribute.b = value
            elif isinstance(value, float):
                attribute.f = value
            elif isinstance(value, bytes):
                attribute.s = value
            elif isinstance(value, list):
                attribute.list.i.extend(value)
            elif isinstance(value, int):
                attribute.i = value
            else:
                attribute.type = value.as_datatype_enum
        return name

    def constant(self, name: str, value: Any) -> str:
        tensor = self.tf.make_tensor_proto(value)
        self.add(name, "Const", dtype=self.tf.as_dtype(tensor.dtype))
        self.proto.node[-1].attr["value"].tensor.CopyFrom(tensor)
        return name

    def normal(self, name: str, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.3
        return self.constant(name, self.random.normal(0, scale, shape).astype(np.float32))

    def pool(self, name: str, kind: str, value: str, size: int, stride: int, padding: bytes) -> str:
        sizes, strides = [1, size, size, 1], [1, stride, stride, 1]
        return self.add(name, kind, (value,), T=self.tf.float32, ksize=sizes, strides=strides, padding=padding)

    def convolution(self, name: str, value: str, shape: tuple[int, ...], stride: int, padding: bytes) -> str:
        """As in Inception: convolution, batch norm of 2015, check, activation."""
        single = self.tf.float32
        weights = self.normal(f"{name}/conv2d_params", *shape)
        strides = [1, stride, stride, 1]
        self.add(f"{name}/Conv2D", "Conv2D", (value, weights), T=single, strides=strides, padding=padding)
        norm = f"{name}/batchnorm"
        values = (f"{name}/Conv2D", self.normal(f"{norm}/moving_mean", shape[-1]))
        spread = self.random.uniform(0.5, 2, (2, shape[-1])).astype(np.float32)
        values += (self.constant(f"{norm}/moving_variance", spread[0]), self.normal(f"{norm}/beta", shape[-1]))
        values += (self.constant(f"{norm}/gamma", spread[1]),)
        options = {"variance_epsilon": 0.001, "scale_after_normalization": False}
        self.add(norm, "BatchNormWithGlobalNormalization", values, T=single, **options)
        self.add(f"{name}/CheckNumerics", "CheckNumerics", (norm,), T=single, message=b"check")
        self.add(f"{name}/control_dependency", "Identity", (norm, f"^{name}/CheckNumerics"), T=single)
        return self.add(name, "Relu", (f"{name}/control_dependency",), T=single)


def inception(tf: Any) -> Any:
    """GraphDef: `DecodeJpeg:0` uint8 `[H, W, 3]` to `pool_3/_reshape:0` `[1, 2048]`."""
    graph, single = FrozenGraph(tf, producer=8), tf.float32
    graph.add("DecodeJpeg", "DecodeJpeg", (graph.constant("DecodeJpeg/contents", b""),), channels=3)
    graph.add("Cast", "Cast", ("DecodeJpeg",), SrcT=tf.uint8, DstT=single)
    graph.add("ExpandDims", "ExpandDims", ("Cast", graph.constant("ExpandDims/dim", np.int32(0))), T=single)
    size = graph.constant("ResizeBilinear/size", np.array([299, 299], np.int32))
    graph.add("ResizeBilinear", "ResizeBilinear", ("ExpandDims", size), T=single, align_corners=False)
    graph.add("Sub", "Sub", ("ResizeBilinear", graph.constant("Sub/y", np.float32(128))), T=single)
    graph.add("Mul", "Mul", ("Sub", graph.constant("Mul/y", np.float32(1 / 128))), T=single)
    value = graph.convolution("conv", "Mul", (3, 3, 3, 8), 4, b"VALID")
    value = graph.pool("pool", "MaxPool", value, 3, 2, b"VALID")
    pooled = graph.pool("mixed/tower_2/pool", "AvgPool", value, 3, 1, b"SAME")
    branches = (
        graph.convolution("mixed/conv", value, (1, 1, 8, 8), 1, b"SAME"),
        graph.convolution("mixed/tower_1/conv", value, (1, 7, 8, 8), 1, b"SAME"),
        graph.convolution("mixed/tower_2/conv", pooled, (1, 1, 8, 8), 1, b"SAME"),
    )
    axis = graph.constant("mixed/join/concat_dim", np.int32(3))
    value = graph.add("mixed/join", "Concat", (axis, *branches), T=single, N=3)
    value = graph.pool("mixed_3/pool", "MaxPool", value, 9, 4, b"VALID")
    value = graph.convolution("mixed_10", value, (1, 1, 24, 2048), 1, b"VALID")
    graph.pool("pool_3", "AvgPool", value, 8, 1, b"VALID")
    shape = graph.constant("pool_3/_reshape/shape", np.array([1, 2048], np.int32))
    graph.add("pool_3/_reshape", "Reshape", ("pool_3", shape), T=single)
    graph.add("softmax", "Softmax", ("pool_3/_reshape",), T=single)
    return graph.proto


def vggish(tf: Any) -> Any:
    """GraphDef: `vggish/input_features:0` `[B, 96, 64]` to `vggish/fc2/BiasAdd:0` `[B, 128]`."""
    random = np.random.default_rng(1)

    def normal(*shape: int) -> Any:
        return tf.constant(random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32))

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, tf.name_scope("vggish"):
        features = v1.placeholder(tf.float32, [None, 96, 64], name="input_features")
        value = tf.reshape(features, [-1, 96, 64, 1])
        value = tf.nn.relu(tf.nn.conv2d(value, normal(3, 3, 1, 4), 1, "SAME"))
        value = tf.nn.max_pool2d(value, 8, 8, "SAME")
        value = tf.reshape(value, tf.stack([tf.shape(value)[0], -1]))
        value = tf.nn.relu(value @ normal(12 * 8 * 4, 64))
        with tf.name_scope("fc2"):
            value = tf.nn.bias_add(tf.matmul(value, normal(64, 128)), normal(128), name="BiasAdd")
        tf.nn.relu(value)
        return graph.as_graph_def()
