"""A packed file as a model of NVIDIA Triton Inference Server, in its ONNX Runtime backend.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import onnxruntime

from vidfit.export.packed_file import read_packed_info
from vidfit.files import replacing_folder

CONFIG: Final = "config.pbtxt"
_TYPES: Final = {"tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


def write_triton_model(source: Path, folder: Path) -> None:
    """Write `config.pbtxt` and `1/model.onnx`. Triton calls the model as the folder is called.

    Arguments:
        source: the packed `.onnx` file.
        folder: a folder in Triton's model repository. It appears when complete, and replaces an older one.

    Raises:
        ModelFileError: `source` is not a packed file.
        OutputError: `folder` holds something else, or cannot be written.
    """
    read_packed_info(source)
    session = onnxruntime.InferenceSession(source.read_bytes(), providers=["CPUExecutionProvider"])
    with replacing_folder(folder, CONFIG) as partial:
        (partial / "1").mkdir()
        shutil.copyfile(source, partial / "1" / "model.onnx")
        (partial / CONFIG).write_text(_config(session), encoding="utf-8")


def _config(session: onnxruntime.InferenceSession) -> str:
    # Triton cannot join videos of unequal length, so it does no batching: the first axis is one of `dims`.
    head = ['backend: "onnxruntime"', "max_batch_size: 0"]
    return "\n".join([*head, _puts("input", session.get_inputs()), _puts("output", session.get_outputs()), ""])


def _puts(kind: str, puts: Iterable[onnxruntime.NodeArg]) -> str:
    lines = []
    for put in puts:
        # Triton compares these with the shapes that ONNX Runtime infers, which may be narrower than the file's.
        dims = [size if isinstance(size, int) else -1 for size in put.shape]
        lines.append(f"  {{ name: {json.dumps(put.name)}, data_type: {_TYPES[put.type]}, dims: {dims} }}")
    return f"{kind} [\n" + ",\n".join(lines) + "\n]"
