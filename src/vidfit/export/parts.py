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

from vidfit.export.extractor import (
    IMAGES,
    NUM_FRAMES,
    PICTURES,
    WINDOWS,
    CarriedExtractor,
    codes_name,
    frames_name,
    read_transforms,
    write_extractor,
)
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.metadata import PackedInfo, output_names, read_info
from vidfit.features.spec import FeatureSpec
from vidfit.videos.extractor import Extractor, parse_extractor
from vidfit.videos.onnx_graphs import needed


class _Port(NamedTuple):
    """A value of the graph, and the input or output that it becomes."""

    value: str
    name: str
    dtype: Any
    shape: list[int | str]


_Ports = tuple[list[_Port], list[_Port]]


class Split(NamedTuple):
    """A file that carries its extractor, cut."""

    parts: dict[str, bytes]
    """ONNX files with the file's metadata, by name."""
    extractor: str
    """JSON of the extractor, with the transforms that the file has in its graph."""


def split(path: Path) -> Split:
    """Read a file that carries its extractor, once, and cut it.

    Raises:
        ModelFileError: it is no packed file, or its extractor is of another version.
        KeyError: it lacks an array of a transform.
    """
    info = read_info(path)
    assert info.extractor is not None
    extractor, whole = parse_extractor(info.extractor, path), onnx.load(path)
    ports = _extractor_ports(extractor, info.spec) | {"model": _model_ports(info)}
    parts = {name: _cut(whole, *own) for name, own in ports.items()}
    transforms = read_transforms(whole, [it.modality for it in extractor.settings.backbones])
    return Split(parts, extractor.model_copy(update={"transforms": transforms}).model_dump_json())


def extractor_parts(carried: CarriedExtractor, spec: FeatureSpec) -> dict[str, bytes]:
    """The parts `pictures` and `sounds` of a file that would carry an extractor."""
    graph = GraphWriter()
    write_extractor(graph, carried, spec)
    whole = onnx.load_from_string(graph.serialise())
    ports = _extractor_ports(Extractor.model_validate_json(carried.metadata()[0]), spec)
    return {name: _cut(whole, *own) for name, own in ports.items()}


def extractor_bytes(path: Path, info: PackedInfo) -> dict[str, int]:
    """Bytes of the parts `pictures` and `sounds` in a file that carries its extractor, without metadata.

    Raises:
        ModelFileError: its extractor is of another version.
    """
    assert info.extractor is not None
    whole = onnx.load(path)
    del whole.metadata_props[:]
    ports = _extractor_ports(parse_extractor(info.extractor, path), info.spec)
    return {name: len(_cut(whole, *own)) for name, own in ports.items()}


def _extractor_ports(extractor: Extractor, spec: FeatureSpec) -> dict[str, _Ports]:
    backbones = {it.modality: it for it in extractor.settings.backbones}
    sizes = {it.name: it.size for it in spec.modalities}
    found: dict[str, _Ports] = {}
    if rgb := backbones.get("rgb"):
        pictures = _Port(PICTURES, IMAGES, np.uint8, ["n", rgb.size, rgb.size, 3])
        found["pictures"] = [pictures], [_Port(codes_name("rgb"), "rgb", np.uint8, ["n", sizes["rgb"]])]
    if audio := backbones.get("audio"):
        windows = _Port(WINDOWS, WINDOWS, np.float32, ["n", audio.window])
        found["sounds"] = [windows], [_Port(codes_name("audio"), "audio", np.uint8, ["n", sizes["audio"]])]
    return found


def _model_ports(info: PackedInfo) -> _Ports:
    frames = [
        _Port(frames_name(it.name), it.name, np.uint8, ["videos", "frames", it.size]) for it in info.spec.modalities
    ]
    shapes: list[list[int | str]] = [["videos"], ["videos", "frames"]]
    outputs = [
        _Port(name, name, np.float32, [*shape, len(info.vocabulary)])
        for name, shape in zip(output_names(info.frame_probabilities), shapes, strict=False)
    ]
    return [*frames, _Port(NUM_FRAMES, "num_frames", np.int64, ["videos"])], outputs


def _cut(whole: onnx.ModelProto, inputs: Sequence[_Port], outputs: Sequence[_Port]) -> bytes:
    """The nodes from some values to others, as a model."""
    part = onnx.ModelProto(
        ir_version=whole.ir_version, opset_import=whole.opset_import, metadata_props=whole.metadata_props
    )
    nodes, tensors = needed(whole.graph, [it.value for it in outputs], [it.value for it in inputs])
    part.graph.name = whole.graph.name
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensors)
    names = {it.value: it.name for it in (*inputs, *outputs)}
    for node in part.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for ports, infos in ((inputs, part.graph.input), (outputs, part.graph.output)):
        for port in ports:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
            infos.append(helper.make_tensor_value_info(port.name, kind, port.shape))
    return part.SerializeToString()
