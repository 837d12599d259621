"""Tiny video files and backbones for tests, made with PyAV and ONNX. A test skips where PyAV is not installed."""

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

av = pytest.importorskip("av")

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 180, 40), (30, 40, 200), (127, 127, 127)
FINE = Fraction(1, 12000)


def plain(colour: Sequence[int], width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 RGB `[height, width, 3]` of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def by_second(*colours: Sequence[int], size: tuple[int, int] = (64, 48)) -> Callable[[float], np.ndarray]:
    """Shows the k-th colour in second k."""
    pictures = [plain(colour, *size) for colour in colours]
    return lambda time: pictures[min(int(time + 1e-9), len(pictures) - 1)]


def tone(hertz: float, seconds: float, rate: int = 16000, level: float = 0.57) -> np.ndarray:
    """float32 `[1, samples]`."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def write(
    path: Path,
    show: Callable[[float], np.ndarray] | None = None,
    times: Sequence[float] = (),
    samples: np.ndarray | None = None,
    sound_rate: int = 16000,
    sound_start: float = 0.0,
    layout: str = "mono",
    codec: str = "mpeg4",
    sound_codec: str = "aac",
    pixel_format: str = "yuv420p",
    adjust: Callable[[Any], None] = lambda stream: None,
    prepare: Callable[[np.ndarray], Any] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """A file of the pictures `show(time)` at some times, in seconds, and of some samples."""
    with av.open(str(path), "w", format=format, container_options=container_options or {}) as container:
        picture_stream = None
        if show:
            first = show(times[0])
            picture_stream = container.add_stream(codec, rate=12)
            picture_stream.width, picture_stream.height = first.shape[1], first.shape[0]
            picture_stream.pix_fmt = pixel_format
            picture_stream.codec_context.time_base = FINE
            picture_stream.time_base = FINE
            adjust(picture_stream)
        sound_stream = None
        if samples is not None:
            sound_stream = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
        if picture_stream is not None and show:
            _write_pictures(container, picture_stream, show, times, pixel_format, prepare)
        if sound_stream is not None and samples is not None:
            write_samples(container, sound_stream, samples, sound_rate, sound_start, layout)
    return path


def _write_pictures(container: Any, stream: Any, show: Any, times: Any, pixel_format: str, prepare: Any) -> None:
    for number, time in enumerate(times):
        picture = show(time)
        frame = prepare(picture) if prepare else av.VideoFrame.from_ndarray(picture).reformat(format=pixel_format)
        frame.pts, frame.time_base = round(time / FINE), FINE
        following = times[number + 1] - time if number + 1 < len(times) else 1 / 12
        frame.duration = round(following / FINE)
        for packet in stream.encode(frame):
            container.mux(packet)
    for packet in stream.encode(None):
        container.mux(packet)


def write_samples(
    container: Any, stream: Any, samples: np.ndarray, rate: int, start: float = 0.0, layout: str = "mono"
) -> None:
    """Encode samples `[channels, N]` into a stream."""
    stream.codec_context.open(strict=False)
    context = stream.codec_context
    size = context.frame_size or 1024
    resampler = av.AudioResampler(context.format, context.layout, context.rate, frame_size=size)
    for first in [*range(0, samples.shape[1], size), None]:
        frame = None
        if first is not None:
            part = np.ascontiguousarray(samples[:, first : first + size])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate) + first
        for ready in resampler.resample(frame):
            container.mux(stream.encode(ready))
    container.mux(stream.encode(None))


def frames_at(rate: float, seconds: float, start: float = 0.0) -> list[float]:
    """Times of frames of a constant rate."""
    return [start + number / rate for number in range(round(rate * seconds))]


def small_model(folder: Path, name: str, modality: str) -> str:
    """A model that projects the mean colour (or spectrum) by a fixed matrix, and its card."""
    channels, size = (3, 5) if modality == "rgb" else (64, 4)
    matrix = np.random.default_rng(1).normal(size=(channels, size)).astype(np.float32)
    shape = ["B", 16, 16, 3] if modality == "rgb" else ["B", 1, 96, 64]
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", size])],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    card = {"modality": modality, "embedding_size": size, "output": "embeddings"}
    card |= {"size": 16, "mean": [127.5], "deviation": [64.0]} if modality == "rgb" else {}
    path.with_suffix(".yaml").write_text(json.dumps(card))
    return str(path)


def write_labelled_clips(folder: Path) -> Path:
    """Two clips of two seconds in folders named after their labels: `red/1.mp4` and `green/1.mp4`."""
    for name, colour in (("red", RED), ("green", GREEN)):
        (folder / name).mkdir(parents=True)
        write(folder / name / "1.mp4", lambda time, colour=colour: plain(colour), frames_at(12, 2))
    return folder
