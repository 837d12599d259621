"""A packed file as a model of NVIDIA Triton Inference Server, in its ONNX Runtime backend.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import onnx

from vidfit.export.packed_file import read_packed_file
from vidfit.files import replacing_folder

CONFIG: Final = "config.pbtxt"


def write_triton_model(source: Path, folder: Path) -> None:
    """Write `config.pbtxt` and `1/model.onnx`. Triton calls the model as the folder is called.

    Arguments:
        source: the packed `.onnx` file.
        folder: a folder in Triton's model repository. It appears when complete, and replaces an older one.

    Raises:
        ModelFileError: `source` is not a packed file.
        OutputError: `folder` holds something else, or cannot be written.
    """
    model, _ = read_packed_file(source)
    with replacing_folder(folder, CONFIG) as partial:
        (partial / "1").mkdir()
        shutil.copyfile(source, partial / "1" / "model.onnx")
        (partial / CONFIG).write_text(_config(model.graph), encoding="utf-8")


def _config(graph: onnx.GraphProto) -> str:
    # Triton cannot join videos of unequal length, so it does no batching: the first axis is one of `dims`.
    head = ['backend: "onnxruntime"', "max_batch_size: 0"]
    return "\n".join([*head, _puts("input", graph.input), _puts("output", graph.output), ""])


def _puts(kind: str, puts: Iterable[onnx.ValueInfoProto]) -> str:
    lines = []
    for put in puts:
        tensor = put.type.tensor_type
        dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).replace("FLOAT", "FP32")
        dims = [size.dim_value or -1 for size in tensor.shape.dim]
        lines.append(f"  {{ name: {json.dumps(put.name)}, data_type: TYPE_{dtype}, dims: {dims} }}")
    return f"{kind} [\n" + ",\n".join(lines) + "\n]"
