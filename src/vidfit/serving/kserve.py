"""The KServe inference protocol, version 2, so that clients of Triton and KServe work.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
The binary extension (tensors as bytes after the JSON) is that of Triton:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

import json
import math
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import numpy as np

from vidfit.errors import DataError
from vidfit.serving.features import parse_json, to_array
from vidfit.serving.models import ServedModel

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
_DTYPES: Final = {"UINT8": "uint8", "FP32": "float32", "INT64": "int64"}
_NUM_FRAMES: Final = "num_frames"


class Answer(NamedTuple):
    """The answer to an inference request.

    Attributes:
        body: JSON, and tensors after it if `json_length` is not None.
        json_length: bytes of the JSON.
    """

    body: bytes
    json_length: int | None


def server_metadata() -> dict[str, Any]:
    """What `/v2` tells."""
    return {"name": "vidfit", "version": version("vidfit"), "extensions": ["binary_tensor_data"]}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """What `/v2/models/NAME` tells."""
    sizes = {"probabilities": [-1], "frame_probabilities": [-1, -1]}
    classes = len(model.info.vocabulary)
    return {
        "name": model.name,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": type, "shape": shape} for name, type, shape in _inputs(model)],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [*sizes[name], classes]} for name in model.outputs],
    }


def infer(model: ServedModel, body: bytes, header_length: str | None) -> Answer:
    """Answer an inference request.

    Arguments:
        header_length: of the HTTP header `HEADER_LENGTH`, where the body has tensors as bytes.

    Raises:
        DataError: the request is not as the protocol wants it, or its tensors are not as the model wants them.
    """
    length = len(body)
    if header_length is not None:
        if not re.fullmatch(r"[0-9]{1,12}", header_length) or int(header_length) > length:
            raise DataError(f"{HEADER_LENGTH}: is not the length of the JSON in the body")
        length = int(header_length)
    asked = parse_json(body[:length])
    id = asked.get("id", "")
    if not isinstance(id, str):
        raise DataError("id: is no text")
    outputs = _outputs(asked, model)
    tensors = _tensors(asked, body[length:], model)
    num_frames = tensors.pop(_NUM_FRAMES, None)
    computed = {
        "probabilities": model.predictor.predict,
        "frame_probabilities": model.predictor.predict_frames,
    }
    arrays = [(name, computed[name](tensors, num_frames), binary) for name, binary in outputs.items()]
    answer = {"model_name": model.name, "model_version": "1"} | ({"id": id} if id else {})
    return _answer(answer, arrays)


def _inputs(model: ServedModel) -> list[tuple[str, str, list[int]]]:
    types = {dtype: name for name, dtype in _DTYPES.items()}
    modalities = model.info.spec.modalities
    return [*((it.name, types[it.dtype], [-1, -1, it.size]) for it in modalities), (_NUM_FRAMES, "INT64", [-1])]


def _outputs(asked: Mapping[str, Any], model: ServedModel) -> dict[str, bool]:
    """Name of each wanted output, and whether it is wanted as bytes."""
    binary = bool(_parameters(asked, "the request").get("binary_data_output", False))
    found: dict[str, bool] = {}
    for output in _objects(asked.get("outputs", [{"name": name} for name in model.outputs]), "outputs"):
        name = output.get("name")
        if not isinstance(name, str) or name not in model.outputs or name in found:
            raise DataError(f"outputs: give some of these, each once: {', '.join(model.outputs)}")
        found[name] = bool(_parameter(output, "binary_data", name, binary))
    return found


def _tensors(asked: Mapping[str, Any], tail: bytes, model: ServedModel) -> dict[str, np.ndarray]:
    """The inputs by name; their bytes, where they have such, follow each other in `tail`."""
    known = {name: datatype for name, datatype, _ in _inputs(model)}
    found: dict[str, np.ndarray] = {}
    for tensor in _objects(asked.get("inputs"), "inputs"):
        name = tensor.get("name")
        if not isinstance(name, str) or name not in known or name in found:
            raise DataError(f"inputs: give each of these once: {', '.join(known)}")
        if tensor.get("datatype") != known[name]:
            raise DataError(f"{name}: its datatype is {known[name]}")
        shape = _shape(tensor, name)
        size = _parameter(tensor, "binary_data_size", name)
        if size is None:
            array = to_array(tensor.get("data"), _DTYPES[known[name]], name).reshape(-1)
        else:
            array, tail = _of_bytes(tail, size, np.dtype(_DTYPES[known[name]]), name)
        if array.size != math.prod(shape):
            raise DataError(f"{name}: has {array.size:,} values, which are not those of shape {shape}")
        found[name] = array.reshape(shape)
    if tail:
        raise DataError("the body has more bytes than its tensors; give each tensor its binary_data_size")
    return found


def _shape(tensor: Mapping[str, Any], name: str) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise DataError(f"{name}: give its shape, a list of sizes")
    if len(shape) > 3:
        raise DataError(f"{name}: has {len(shape)} axes; give at most 3")
    if 0 in shape:
        raise DataError(f"{name}: its shape {shape} has no values; give at least one video of one frame")
    return shape


def _of_bytes(tail: bytes, size: object, dtype: np.dtype, name: str) -> tuple[np.ndarray, bytes]:
    if type(size) is not int or not 0 <= size <= len(tail) or size % dtype.itemsize:
        raise DataError(f"{name}: binary_data_size is not the bytes of its tensor")
    # Little-endian, as the extension says; so are the machines that ONNX Runtime runs on.
    return np.frombuffer(tail[:size], dtype), tail[size:]


def _objects(values: object, place: str) -> list[dict[str, Any]]:
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{place}: give a list of objects")
    return values


def _parameters(of: Mapping[str, Any], place: str) -> dict[str, Any]:
    parameters = of.get("parameters", {})
    if not isinstance(parameters, dict):
        raise DataError(f"{place}: parameters is no object")
    return parameters


def _parameter(tensor: Mapping[str, Any], known: str, name: str, default: object = None) -> object:
    """A tensor's only parameter. Others, such as `classification`, change what it holds: they are refused."""
    parameters = _parameters(tensor, name)
    for parameter in parameters:
        if parameter != known:
            raise DataError(f"{name}: the parameter {parameter!r} is unknown; leave it out")
    return parameters.get(known, default)


def _answer(answer: dict[str, Any], arrays: list[tuple[str, np.ndarray, bool]]) -> Answer:
    tails, outputs = [], []
    for name, array, binary in arrays:
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(array.shape)}
        if binary:
            tails.append(array.tobytes())
            output["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            output["data"] = array.reshape(-1).tolist()
        outputs.append(output)
    header = json.dumps({**answer, "outputs": outputs}).encode()
    return Answer(b"".join([header, *tails]), len(header) if tails else None)
