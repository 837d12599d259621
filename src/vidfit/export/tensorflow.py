"""A packed file as a TensorFlow SavedModel of the same inputs, output and size.

The ONNX graph is walked node by node, each becomes its counterpart of `tensorflow_operators.py`. Weights become
variables of their stored type: TensorFlow folds constants but never variables, so 8 bits and less stay as they are on
disk and in memory. What this trades away is speed: each run expands each matrix to floats for a moment.
`docs/guide/deploying.md` says how to load it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from vidfit.errors import ModelFileError, OutputError, reason
from vidfit.export.metadata import PackedInfo
from vidfit.export.tensorflow_operators import OPERATORS, tf
from vidfit.files import replacing_folder

METADATA = "vidfit.json"
# Elements up to which an initializer is a constant in the graph: a variable takes 2 kB beside its values.
_LARGEST_CONSTANT = 4096


def write_saved_model(source: Path, folder: Path) -> None:
    """Write a packed file as a SavedModel with the signature `serving_default`, and `vidfit.json` beside it.

    Arguments:
        source: the packed `.onnx` file.
        folder: the SavedModel's; written beside and renamed. A SavedModel of that name is replaced.

    Raises:
        ModelFileError: `source` is not a packed file, has an operator that is not mapped, or an input of a name that
            TensorFlow does not take.
        OutputError: `folder` holds something else, or cannot be written.
    """
    try:
        model = onnx.load(source)
        info = PackedInfo.model_validate({entry.key: entry.value for entry in model.metadata_props})
    except Exception as error:  # protobuf's, the system's and pydantic's have nothing in common
        raise ModelFileError(
            f"{source}: not a readable packed file ({reason(error)}); pack it again or copy it anew"
        ) from error
    for put in model.graph.input:
        # Others TensorFlow renames or refuses, in its own words.
        if not re.fullmatch(r"[A-Za-z]\w*", put.name, re.ASCII):
            raise ModelFileError(
                f"{source}: TensorFlow takes no input of the name {put.name!r}; train on shards that name it with "
                "letters, digits and _ alone"
            )
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
        # One node each, however often it is used; integers may be sizes and axes, which must be known.
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


class _UnmappedError(Exception):
    """Names an operator that TensorFlow cannot be told."""


@dataclass
class _Body:
    """A graph as a function of its inputs, within a `tf.function`.

    Attributes:
        graph: the whole model's, or the body of a Scan.
        outside: what its nodes may read beside its inputs, by name: initializers, and values of the graph around it.
    """

    graph: onnx.GraphProto
    outside: Mapping[str, Any]

    @property
    def dtypes(self) -> list[Any]:
        """Of its outputs."""
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
    """The graph and those within it; no two of them give a value the same name."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _dtype(element: int) -> Any:
    return tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
