"""Cut a file that carries its extractor into three models, so that a long video needs no more memory than a short one.

| part | input | output |
|---|---|---|
| `pictures` | `images` uint8 `[n, size, size, 3]` | `rgb` uint8 `[n, K]` |
| `sounds` | `windows` float32 `[n, window]` | `audio` uint8 `[n, K]` |
| `model` | frames by modality and `num_frames` | `probabilities`, as of a file without extractor |

A part that the file does not carry is missing. Together they hold the weights of the file once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from vidfit.export.extractor import IMAGES, NUM_FRAMES, PICTURES, WINDOWS, codes_name, frames_name, read_transforms
from vidfit.export.metadata import PackedInfo, output_names
from vidfit.videos.extractor import Extractor
from vidfit.videos.onnx_graphs import prune


class _Port(NamedTuple):
    """A value of the graph, and the input or output that it becomes."""

    value: str
    name: str
    dtype: Any
    shape: list[int | str]


def split(path: Path, info: PackedInfo) -> dict[str, bytes]:
    """The parts of a file, each an ONNX file.

    Arguments:
        path: a file that carries its extractor.
        info: its metadata.
    """
    whole = onnx.load(path)
    return {name: _cut(whole, *ports) for name, ports in _ports(info).items()}


def model_part(path: Path, info: PackedInfo) -> tuple[bytes, str]:
    """The part `model`, and JSON of the extractor with the transforms that the file has in its graph."""
    assert info.extractor is not None
    whole = onnx.load(path)
    extractor = Extractor.model_validate_json(info.extractor)
    modalities = [it.modality for it in extractor.settings.backbones]
    full = extractor.model_copy(update={"transforms": read_transforms(whole, modalities)})
    return _cut(whole, *_ports(info)["model"]), full.model_dump_json()


def _ports(info: PackedInfo) -> dict[str, tuple[list[_Port], list[_Port]]]:
    """Inputs and outputs of each part."""
    assert info.extractor is not None
    backbones = {it.modality: it for it in Extractor.model_validate_json(info.extractor).settings.backbones}
    sizes = {it.name: it.size for it in info.spec.modalities}
    found = {}
    if rgb := backbones.get("rgb"):
        pictures = _Port(PICTURES, IMAGES, np.uint8, ["n", rgb.size, rgb.size, 3])
        found["pictures"] = [pictures], [_Port(codes_name("rgb"), "rgb", np.uint8, ["n", sizes["rgb"]])]
    if audio := backbones.get("audio"):
        windows = _Port(WINDOWS, WINDOWS, np.float32, ["n", audio.window])
        found["sounds"] = [windows], [_Port(codes_name("audio"), "audio", np.uint8, ["n", sizes["audio"]])]
    frames = [_Port(frames_name(name), name, np.uint8, ["videos", "frames", size]) for name, size in sizes.items()]
    shapes: list[list[int | str]] = [["videos"], ["videos", "frames"]]
    outputs = [
        _Port(name, name, np.float32, [*shape, len(info.vocabulary)])
        for name, shape in zip(output_names(info.frame_probabilities), shapes, strict=False)
    ]
    found["model"] = [*frames, _Port(NUM_FRAMES, "num_frames", np.int64, ["videos"])], outputs
    return found


def _cut(whole: onnx.ModelProto, inputs: Sequence[_Port], outputs: Sequence[_Port]) -> bytes:
    """The nodes from some values to others, as a model."""
    part = onnx.ModelProto()
    part.CopyFrom(whole)
    prune(part.graph, [it.value for it in outputs], [it.value for it in inputs])
    del part.graph.input[:], part.graph.output[:]
    names = {it.value: it.name for it in (*inputs, *outputs)}
    for node in part.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for ports, kind in ((inputs, part.graph.input), (outputs, part.graph.output)):
        types = (helper.np_dtype_to_tensor_dtype(np.dtype(it.dtype)) for it in ports)
        kind.extend(
            helper.make_tensor_value_info(it.name, dtype, it.shape) for it, dtype in zip(ports, types, strict=True)
        )
    return part.SerializeToString()
