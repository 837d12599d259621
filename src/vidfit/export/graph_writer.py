"""Write an ONNX graph as formulas: values have Python's operators, and each adds a node.

    graph = GraphWriter()
    frames = graph.input("frames", np.float32, ["rows", 8])
    graph.output((frames @ weights + 1).sigmoid(), "probabilities", ["rows", 3])

Nodes whose inputs are all constant are computed once, when ONNX Runtime loads the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import onnx
import onnx.compose
import onnx.inliner
import onnx.version_converter
from onnx import helper

if TYPE_CHECKING:
    from torch import Tensor

# What a file needs of onnxruntime (`inference/packed_model.py` says which versions these are): the opset in which
# QuantizeLinear has blocks. Only an onnxruntime of the second one multiplies with 2 bits.
_OPSET, _OPSET_OF_2_BITS, _IR_VERSION = 21, 23, 10

Constant = Union["Tensor", np.ndarray, np.generic, float]
Operand = Union["Value", Constant]


class GraphWriter:
    """The graph so far.

    Arguments:
        model: a graph to add to, which another writer made. By default a new one.

    Attributes:
        model: the graph as ONNX has it.
        scope: names of new nodes begin with it.
    """

    def __init__(self, model: onnx.ModelProto | None = None) -> None:
        self.model = onnx.ModelProto() if model is None else model
        self._graph = self.model.graph
        self._graph.name = "vidfit"
        self.scope = ""
        self._numbers: dict[tuple[str, str], Value] = {}

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> "Value":
        """An input of the graph. Names in its shape are dynamic sizes."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return Value(self, name)

    def output(self, value: "Value", name: str, shape: Sequence[int | str]) -> None:
        """Make a float32 value an output of the graph."""
        self._graph.node.append(helper.make_node("Identity", [value.name], [name], name=name))
        self._graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))

    def constant(self, value: Constant, name: str | None = None) -> "Value":
        """An array, stored under a name; Python numbers are float32. Equal numbers are stored once."""
        known = isinstance(value, np.ndarray | np.generic | float | int)
        array = np.asarray(value) if known else value.detach().numpy()
        if isinstance(value, float | int):
            array = array.astype(np.float32)
        if array.size == 1 and name is None:
            key = (str(array.dtype), f"{array.shape} {array.item()!r}")
            if key not in self._numbers:
                self._numbers[key] = self._stored(array, None)
            return self._numbers[key]
        return self._stored(array, name)

    def integers(self, *values: int) -> "Value":
        """int64 `[n]`, such as axes and shapes."""
        return self.constant(np.array(values, np.int64))

    def _stored(self, array: np.ndarray, name: str | None) -> "Value":
        tensor = self._graph.initializer.add()
        tensor.name = name or f"c{len(self._graph.initializer)}"
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)
        tensor.raw_data = array.tobytes()
        return Value(self, tensor.name)

    def add(self, operator: str, *inputs: "Operand | None", **attributes: Any) -> "Value":
        """A node with one output. None leaves out an optional input; `domain` is an attribute like others."""
        return self.add_node(operator, inputs, 1, **attributes)[0]

    def add_node(
        self, operator: str, inputs: Sequence["Operand | None"], outputs: int, **attributes: Any
    ) -> tuple["Value", ...]:
        """A node with several outputs."""
        name = self.name(operator)
        names = ["" if it is None else (it if isinstance(it, Value) else self.constant(it)).name for it in inputs]
        # Short names: in a small file they take more bytes than its weights.
        place = len(self._graph.node)
        own = [f"{place}.{number}" if number else str(place) for number in range(outputs)]
        self._graph.node.append(helper.make_node(operator, names, own, name=name, **attributes))
        return tuple(Value(self, it) for it in own)

    def concat(self, values: Sequence["Value"], axis: int) -> "Value":
        """Values side by side along an axis; a single one is itself."""
        return values[0] if len(values) == 1 else self.add("Concat", *values, axis=axis)

    def include(self, model: onnx.ModelProto, value: "Value", output: str) -> "Value":
        """The output of another model with one input. Its names get the scope and its own name before them.

        Arguments:
            model: its standard operators must exist in the opset that files have.
            value: its input.
            output: name of the output.
        """
        model = onnx.version_converter.convert_version(onnx.inliner.inline_local_functions(model), _OPSET)
        prefix = f"{self.scope}{model.graph.name}."
        stored = {tensor.name for tensor in model.graph.initializer}
        (given,) = (prefix + it.name for it in model.graph.input if it.name not in stored)
        graph = onnx.compose.add_prefix_graph(model.graph, prefix)
        self.call(value, given)
        self._graph.node.extend(graph.node)
        self._graph.initializer.extend(graph.initializer)
        return Value(self, prefix + output)

    def call(self, value: "Value", name: str) -> "Value":
        """The same value under a name that you choose."""
        self._graph.node.append(helper.make_node("Identity", [value.name], [name]))
        return Value(self, name)

    def serialise(self) -> bytes:
        """The model as a file.

        Raises:
            EncodeError, ValueError: it takes more than 2 GiB.
        """
        model = self.model
        model.ir_version, model.producer_name, model.producer_version = _IR_VERSION, "vidfit", version("vidfit")
        domains = {node.domain for node in model.graph.node}
        opset = _OPSET_OF_2_BITS if any(map(_has_2_bits, model.graph.node)) else _OPSET
        del model.opset_import[:]
        model.opset_import.extend(
            helper.make_opsetid(domain, number)
            for domain, number in (("", opset), ("com.microsoft", 1))
            if domain in domains
        )
        return model.SerializeToString()

    def name(self, operator: str) -> str:
        """A name that no other node has."""
        return f"{self.scope}{operator}_{len(self._graph.node)}"

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants that are arrays."""
        return sum(len(tensor.raw_data) for tensor in self._graph.initializer)


def _has_2_bits(node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMulNBits" and any(it.name == "bits" and it.i == 2 for it in node.attribute)


@dataclass(frozen=True)
class Value:
    """A value of a graph. Its methods are named after what they do in PyTorch, and add ONNX operators."""

    graph: GraphWriter
    name: str

    # NumPy leaves an operator with an array on its left to this class.
    __array_ufunc__ = None

    def __add__(self, other: Operand) -> "Value":
        return self.graph.add("Add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> "Value":
        return self.graph.add("Sub", self, other)

    def __rsub__(self, other: Operand) -> "Value":
        return self.graph.add("Sub", other, self)

    def __mul__(self, other: Operand) -> "Value":
        return self.graph.add("Mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Value":
        return self.graph.add("Div", self, other)

    def __rtruediv__(self, other: Operand) -> "Value":
        return self.graph.add("Div", other, self)

    def __matmul__(self, other: Operand) -> "Value":
        return self.graph.add("MatMul", self, other)

    def __rmatmul__(self, other: Operand) -> "Value":
        return self.graph.add("MatMul", other, self)

    def __neg__(self) -> "Value":
        return self.graph.add("Neg", self)

    def __lt__(self, other: Operand) -> "Value":
        return self.graph.add("Less", self, other)

    def sum(self, axis: int) -> "Value":
        """All reductions keep the axis, with length 1."""
        return self.graph.add("ReduceSum", self, self.graph.integers(axis))

    def max(self, axis: int) -> "Value":
        return self.graph.add("ReduceMax", self, self.graph.integers(axis))

    def min(self, axis: int) -> "Value":
        return self.graph.add("ReduceMin", self, self.graph.integers(axis))

    def norm(self, axis: int) -> "Value":
        """L2 norm."""
        return self.graph.add("ReduceL2", self, self.graph.integers(axis))

    def softmax(self) -> "Value":
        """Over the last axis."""
        return self.graph.add("Softmax", self, axis=-1)

    def sigmoid(self) -> "Value":
        return self.graph.add("Sigmoid", self)

    def relu(self) -> "Value":
        return self.graph.add("Relu", self)

    def softplus(self) -> "Value":
        return self.graph.add("Softplus", self)

    def exp(self) -> "Value":
        return self.graph.add("Exp", self)

    def log(self) -> "Value":
        return self.graph.add("Log", self)

    def sqrt(self) -> "Value":
        return self.graph.add("Sqrt", self)

    def abs(self) -> "Value":
        return self.graph.add("Abs", self)

    def floor(self) -> "Value":
        return self.graph.add("Floor", self)

    def round(self) -> "Value":
        return self.graph.add("Round", self)

    def clamp(self, low: float | None = None, high: float | None = None) -> "Value":
        return self.graph.add("Clip", self, low, high)

    def cast(self, dtype: Any) -> "Value":
        return self.graph.add("Cast", self, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, *sizes: int) -> "Value":
        """0 keeps the size of that axis, -1 takes what is left."""
        return self.graph.add("Reshape", self, self.graph.integers(*sizes))

    def expand(self, *sizes: int) -> "Value":
        """Repeat along axes of length 1. A size of 1 keeps that of the axis."""
        return self.graph.add("Expand", self, self.graph.integers(*sizes))

    def full_like(self, number: Constant) -> "Value":
        """The same number everywhere, in this value's shape."""
        return self.graph.add("Expand", number, self.graph.add("Shape", self))

    def permute(self, *axes: int) -> "Value":
        return self.graph.add("Transpose", self, perm=axes)

    def unsqueeze(self, *axes: int) -> "Value":
        return self.graph.add("Unsqueeze", self, self.graph.integers(*axes))

    def squeeze(self, *axes: int) -> "Value":
        return self.graph.add("Squeeze", self, self.graph.integers(*axes))

    def part(self, axis: int, start: int, stop: int) -> "Value":
        """The elements from `start` up to `stop` along an axis."""
        start_1, stop_1, axis_1 = (self.graph.integers(number) for number in (start, stop, axis))
        return self.graph.add("Slice", self, start_1, stop_1, axis_1)

    def pick(self, axis: int, place: int) -> "Value":
        """One element along an axis, which is removed."""
        return self.graph.add("Gather", self, np.array(place, np.int64), axis=axis)

    def sizes(self, start: int, stop: int) -> "Value":
        """The sizes of the axes from `start` up to `stop`, int64."""
        return self.graph.add("Shape", self, start=start, end=stop)
