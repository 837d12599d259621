"""A packed file as a model of NVIDIA Triton Inference Server, in its ONNX Runtime backend.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

import json
import shutil
from pathlib import Path
from typing import Final

from vidfit.export.metadata import PackedInfo, output_names, parse_metadata, read_header
from vidfit.files import replacing_folder

CONFIG: Final = "config.pbtxt"
_TYPES: Final = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def write_triton_model(source: Path, folder: Path) -> None:
    """Write `config.pbtxt` and `1/model.onnx`. Triton calls the model as the folder is called.

    Arguments:
        source: the packed `.onnx` file.
        folder: a folder in Triton's model repository. It appears when complete, and replaces an older one.

    Raises:
        ModelFileError: `source` is not a packed file.
        OutputError: `folder` holds something else, or cannot be written.
    """
    info = parse_metadata(source, read_header(source).metadata)
    with replacing_folder(folder, CONFIG) as partial:
        (partial / "1").mkdir()
        shutil.copyfile(source, partial / "1" / "model.onnx")
        (partial / CONFIG).write_text(_config(info), encoding="utf-8")


def _config(info: PackedInfo) -> str:
    # Triton cannot join videos of unequal length, so it does no batching: the first axis is one of `dims`.
    inputs = [(it.name, _TYPES[it.dtype], [-1, -1, it.size]) for it in info.spec.modalities]
    inputs.append(("num_frames", "TYPE_INT64", [-1]))
    sizes = {"probabilities": [-1], "frame_probabilities": [-1, -1]}
    names = output_names(info.frame_probabilities)
    outputs = [(name, "TYPE_FP32", [*sizes[name], len(info.vocabulary)]) for name in names]
    return "\n".join(
        ['backend: "onnxruntime"', "max_batch_size: 0", _puts("input", inputs), _puts("output", outputs), ""]
    )


def _puts(kind: str, puts: list[tuple[str, str, list[int]]]) -> str:
    lines = [f"  {{ name: {json.dumps(name)}, data_type: {dtype}, dims: {dims} }}" for name, dtype, dims in puts]
    return f"{kind} [\n" + ",\n".join(lines) + "\n]"
