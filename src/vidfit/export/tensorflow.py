"""A packed file as a TensorFlow SavedModel with the same inputs, output and size.

Each node of the ONNX graph becomes its counterpart in `tensorflow_operators.py`. Weights become variables of their
stored type. TensorFlow never folds variables, so codes of 8 bits and less keep their size on disk and in memory. The
price is speed: each run expands each matrix to floats. `docs/guide/deploying.md` shows how to load it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from vidfit.errors import ModelFileError, OutputError, reason
from vidfit.export.metadata import METADATA, PackedInfo
from vidfit.export.packed_file import read_packed_file
from vidfit.export.tensorflow_operators import OPERATORS, tf
from vidfit.files import replacing_folder

# An initializer of at most this many elements becomes a constant: a variable takes 2 kB more than its values.
_LARGEST_CONSTANT = 4096


def write_saved_model(source: Path, folder: Path) -> None:
    """Write a packed file as a SavedModel with the signature `serving_default`, and `vidfit.json` in its folder.

    Arguments:
        source: the packed `.onnx` file.
        folder: folder of the SavedModel. It appears when complete, and replaces an older SavedModel.

    Raises:
        ModelFileError: `source` is not a packed file, has an operator without a counterpart, or an input name that
            TensorFlow does not accept.
        OutputError: `folder` holds something else, or cannot be written.
    """
    model, info = _read(source)
    module = tf.Module()
    module.weights, constants = {}, {}
    for tensor in (tensor for graph in _graphs(model.graph) for tensor in graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.size > _LARGEST_CONSTANT:
            module.weights[tensor.name] = tf.Variable(value, trainable=False)
        else:
            constants[tensor.name] = value
    puts = [(put.name, put.type.tensor_type) for put in model.graph.input]
    inputs = [
        tf.TensorSpec([size.dim_value or None for size in put.shape.dim], _dtype(put.elem_type), name)
        for name, put in puts
    ]

    @tf.function(input_signature=inputs, autograph=False)
    def predict(*inputs):
        # Floats become one node each. Integers stay NumPy: sizes and axes must be known when the graph is built.
        floats = {name: tf.constant(value) for name, value in constants.items() if value.dtype.kind == "f"}
        weights = {name: variable.value() for name, variable in module.weights.items()}
        outputs = _Body(model.graph, {**constants, **floats, **weights})(*inputs)
        return {put.name: output for put, output in zip(model.graph.output, outputs, strict=True)}

    try:
        signatures = {"serving_default": predict.get_concrete_function()}
    except _UnmappedError as error:
        raise ModelFileError(f"{source}: {error} cannot be written for TensorFlow") from error
    with replacing_folder(folder, "saved_model.pb") as partial:
        try:
            tf.saved_model.save(module, str(partial), signatures)
        except tf.errors.OpError as error:
            raise OutputError(f"{folder}: cannot be written ({error.message})") from error
        (partial / METADATA).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _read(source: Path) -> tuple[onnx.ModelProto, PackedInfo]:
    model, info = read_packed_file(source)
    if info.carried:
        raise ModelFileError(f"{source}: carries its extractor, which TensorFlow cannot run; pack it without")
    for put in model.graph.input:
        # TensorFlow silently renames other names, or refuses them with a traceback.
        if not re.fullmatch(r"[A-Za-z]\w*", put.name, re.ASCII):
            raise ModelFileError(
                f"{source}: TensorFlow takes no input of the name {put.name!r}; train on shards whose names have only "
                "letters, digits and _"
            )
    return model, info


class _UnmappedError(Exception):
    """Names an operator without a counterpart in TensorFlow."""


@dataclass
class _Body:
    """A graph as a function of its inputs, within a `tf.function`.

    Attributes:
        graph: of the whole model, or the body of a Scan.
        outside: values by name that its nodes read besides its inputs: initializers and values of the outer graph.
    """

    graph: onnx.GraphProto
    outside: Mapping[str, Any]

    @property
    def dtypes(self) -> list[Any]:
        """Types of its outputs."""
        return [_dtype(put.type.tensor_type.elem_type) for put in self.graph.output]

    def __call__(self, *inputs) -> list[Any]:
        values = dict(self.outside)
        values.update(zip((put.name for put in self.graph.input), inputs, strict=True))
        for node in self.graph.node:
            values.update(zip(node.output, _run(node, values), strict=False))
        return [values[put.name] for put in self.graph.output]


def _run(node: onnx.NodeProto, values: Mapping[str, Any]) -> list[Any]:
    name = f"{node.domain}.{node.op_type}".lstrip(".")
    if name not in OPERATORS:
        raise _UnmappedError(f"the operator {name}")
    inputs = [values[name] if name else None for name in node.input]
    attributes = {attribute.name: _attribute(attribute, values) for attribute in node.attribute}
    try:
        outputs = OPERATORS[name](*inputs, **attributes)
    except (TypeError, ValueError) as error:
        raise _UnmappedError(f"the operator {name} ({reason(error)})") from error
    return outputs if isinstance(outputs, list) else [outputs]


def _attribute(attribute: onnx.AttributeProto, values: Mapping[str, Any]) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.GraphProto):
        return _Body(value, values)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs within it. Names of values are unique over all of them."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _dtype(element: int) -> Any:
    return tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
