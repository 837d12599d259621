"""The extractor of a file in its graph: from pictures and sound to the bytes of frames.

    images -> picture model -> transform -> bytes of pictures
    audio -> windows -> log-mel -> sound model -> transform -> bytes of sounds

`parts.py` cuts the graph at the values that are named here. docs/reference/file-formats.md describes both.

Shapes: S steps of the video, n pictures or windows, K bytes of a modality.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from vidfit.export.graph_writer import GraphWriter, Value
from vidfit.export.log_mel import log_mel
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.videos.backbone import Backbone
from vidfit.videos.extractor import Extractor
from vidfit.videos.sound import SAMPLE_RATE
from vidfit.videos.transform import ABSENT, Transform

IMAGES: Final = "images"
AUDIO: Final = "audio"
PICTURES: Final = "extractor.pictures"
WINDOWS: Final = "windows"
NUM_FRAMES: Final = "extractor.num_frames"


def codes_name(modality: str) -> str:
    """The value with the bytes of some pictures or windows, uint8 `[n, K]`."""
    return f"extractor.{modality}.codes"


def frames_name(modality: str) -> str:
    """The value with the bytes of a video's frames, uint8 `[1, S, K]`."""
    return f"extractor.{modality}.frames"


@dataclass(frozen=True)
class CarriedModel:
    """A model for pictures or sounds that a file is to carry.

    Attributes:
        model: in ONNX, with the input and output that the extractor's backbone describes.
        bits: of its weights; 32 is float.
    """

    model: onnx.ModelProto
    bits: int


@dataclass(frozen=True)
class CarriedExtractor:
    """What a file is to carry.

    Attributes:
        extractor: its settings and transforms.
        models: by modality. A modality without one is absent in every video.
    """

    extractor: Extractor
    models: dict[str, CarriedModel]

    def backbone(self, modality: str) -> Backbone:
        """The description of a model."""
        return next(it for it in self.extractor.settings.backbones if it.modality == modality)

    def metadata(self) -> tuple[str, dict[str, dict[str, int]]]:
        """JSON of the extractor and the bits of its models. The transforms are missing, for the graph has them."""
        backbones = tuple(it for it in self.extractor.settings.backbones if it.modality in self.models)
        settings = self.extractor.settings.model_copy(update={"backbones": backbones})
        slim = self.extractor.model_copy(
            update={"settings": settings, "transforms": {}, "part_of": self.extractor.digest}
        )
        return slim.model_dump_json(), {name: {"bits": it.bits} for name, it in self.models.items()}


def write_extractor(graph: GraphWriter, carried: CarriedExtractor, spec: FeatureSpec) -> tuple[dict[str, Value], Value]:
    """Add the inputs `images` and `audio`, and what makes frames of them.

    Returns:
        Frames by modality, uint8 `[1, S, K]`, and their number S, int64 `[1]`.
    """
    settings = carried.extractor.settings
    images = audio = None
    if "rgb" in carried.models:
        size = carried.backbone("rgb").size
        images = graph.input(IMAGES, np.uint8, ["steps", size, size, 3])
    if "audio" in carried.models:
        audio = graph.input(AUDIO, np.float32, ["samples"])
    graph.scope = "extractor/"
    steps_1 = _steps(graph, images, audio, settings.rate)
    codes = {}
    if images is not None:
        codes["rgb"] = _of_pictures(carried, images, steps_1)
    if audio is not None:
        codes["audio"] = _of_sounds(carried, audio, steps_1)
    frames = {name: graph.call(codes_SK.unsqueeze(0), frames_name(name)) for name, codes_SK in codes.items()}
    any_frames = next(iter(frames.values()))
    frames |= {it.name: _absent(any_frames, it) for it in spec.modalities if it.name not in frames}
    return {it.name: frames[it.name] for it in spec.modalities}, graph.call(steps_1, NUM_FRAMES)


def _steps(graph: GraphWriter, images: Value | None, audio: Value | None, rate: float) -> Value:
    """int64 `[1]`: as many as pictures; without any, as many as the sound lasts, at least one."""
    if audio is None:
        assert images is not None
        return graph.add("Max", images.sizes(0, 1), graph.integers(1))
    seconds_1 = audio.sizes(0, 1).cast(np.float64) / np.array(float(SAMPLE_RATE))
    heard_1 = graph.add("Max", (seconds_1 * np.array(rate) + np.array(1e-6)).round().cast(np.int64), graph.integers(1))
    if images is None:
        return heard_1
    seen_1 = images.sizes(0, 1)
    return graph.add("Where", graph.integers(0) < seen_1, seen_1, heard_1)


def _of_pictures(carried: CarriedExtractor, images: Value, steps_1: Value) -> Value:
    """uint8 `[S, K]`; absent throughout where there is no picture."""
    graph, size = images.graph, carried.backbone("rgb").size
    seen_1 = images.sizes(0, 1)
    # Without pictures, use a blank one: models do not take an empty batch.
    blanks_1 = (seen_1 < graph.integers(1)).cast(np.int64)
    shape_4 = graph.concat([blanks_1, graph.integers(size, size, 3)], axis=0)
    blanks = graph.add("Expand", np.zeros((1, 1, 1, 1), np.uint8), shape_4)
    pictures = graph.call(graph.concat([images, blanks], axis=0), PICTURES)
    codes_NK = graph.call(_embed(carried, "rgb", pictures), codes_name("rgb"))
    last_1 = (seen_1 + blanks_1) - graph.integers(1)
    codes_SK = graph.add("Gather", codes_NK, graph.add("Min", _count(steps_1), last_1), axis=0)
    return graph.add("Where", graph.integers(0) < seen_1, codes_SK, np.uint8(ABSENT))


def _of_sounds(carried: CarriedExtractor, audio: Value, steps_1: Value) -> Value:
    """uint8 `[S, K]`; absent where more than half of a window is missing: NaN, or after the end."""
    graph, backbone = audio.graph, carried.backbone("audio")
    rate = np.array(carried.extractor.settings.rate)
    starts_S = (_count(steps_1).cast(np.float64) * np.array(float(SAMPLE_RATE)) / rate).round().cast(np.int64)
    samples_N = graph.add("Range", np.int64(0), np.int64(backbone.window), np.int64(1))
    places_SN = graph.add("Min", starts_S.unsqueeze(1) + samples_N, audio.sizes(0, 1))
    ended = graph.concat([audio, graph.constant(np.full(1, np.nan, np.float32), "extractor.missing")], axis=0)
    heard_SN = graph.add("Gather", ended, places_SN, axis=0)
    missing_SN = graph.add("IsNaN", heard_SN)
    windows_SN = graph.call(graph.add("Where", missing_SN, np.float32(0), heard_SN), WINDOWS)
    codes_SK = graph.call(_embed(carried, "audio", windows_SN), codes_name("audio"))
    share_S1 = graph.add("ReduceMean", missing_SN.cast(np.float32), graph.integers(1))
    return graph.add("Where", graph.constant(0.5) < share_S1, np.uint8(ABSENT), codes_SK)


def _absent(frames: Value, modality: Modality) -> Value:
    """Frames of a modality that no video has: as many as there are of another."""
    shape_3 = frames.graph.concat([frames.sizes(0, 2), frames.graph.integers(modality.size)], axis=0)
    return frames.graph.add("Expand", np.full((1, 1, 1), ABSENT, np.uint8), shape_3)


def _count(stop_1: Value) -> Value:
    """int64, from 0 to before `stop`."""
    return stop_1.graph.add("Range", np.int64(0), stop_1.squeeze(0), np.int64(1))


def _embed(carried: CarriedExtractor, modality: str, values: Value) -> Value:
    """uint8 `[n, K]` of pictures `[n, size, size, 3]` or windows `[n, window]`, as `videos/embed.py`."""
    graph, backbone = values.graph, carried.backbone(modality)
    if modality == "audio":
        values = log_mel(values, backbone.window, backbone.log_offset).unsqueeze(1)
    of_bytes = modality == "rgb"
    if any(backbone.mean) or backbone.deviation != (1.0,):
        mean, deviation = (np.array(it, np.float32) for it in (backbone.mean, backbone.deviation))
        values = ((values.cast(np.float32) if of_bytes else values) - mean) / deviation
        of_bytes = False
    if not of_bytes and backbone.dtype == "uint8":
        values = values.round().clamp(0.0, 255.0).cast(np.uint8)
    elif of_bytes and backbone.dtype == "float32":
        values = values.cast(np.float32)
    if modality == "rgb" and backbone.channels == "first":
        values = values.permute(0, 3, 1, 2)
    output = graph.include(carried.models[modality].model, values, backbone.output)
    embedding = output.cast(np.float32).reshape(0, -1).part(1, 0, backbone.embedding_size)
    return _transform(carried.extractor.transforms[modality], modality, embedding)


def _transform(transform: Transform, modality: str, embeddings: Value) -> Value:
    """`Transform.apply` of what is present."""
    graph = embeddings.graph
    mean, scale = (
        graph.constant(array, _stored_as(modality, name))
        for name, array in (("mean", transform.mean), ("scale", transform.scale))
    )
    values = embeddings - mean
    if transform.components is not None:
        components = graph.constant(transform.components, _stored_as(modality, "components"))
        values = values @ components.cast(np.float32)
    return ((values * scale + (2 - 4 / 512)) * (255 / 4)).round().clamp(0.0, 255.0).cast(np.uint8)


def _stored_as(modality: str, array: str) -> str:
    return f"extractor.{modality}.{array}"


def read_transforms(model: onnx.ModelProto, modalities: list[str]) -> dict[str, Transform]:
    """The transforms of a file that carries its extractor.

    Raises:
        KeyError: the file lacks an array of one.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def array(modality: str, name: str) -> np.ndarray:
        return numpy_helper.to_array(tensors[_stored_as(modality, name)])

    return {
        modality: Transform(
            mean=array(modality, "mean"),
            scale=array(modality, "scale"),
            components=array(modality, "components") if _stored_as(modality, "components") in tensors else None,
        )
        for modality in modalities
    }
