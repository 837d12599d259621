"""Videos to embeddings: the pictures and sounds of a file through two models in ONNX Runtime.

One thread per process, so that a video's embeddings are the same bytes however many processes work.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import onnxruntime

from vidfit.errors import DataError, reason
from vidfit.videos.backbone import Backbone
from vidfit.videos.backbones import model_file
from vidfit.videos.decode import Picture, Reading, Sampling, read_steps
from vidfit.videos.extractor import Settings
from vidfit.videos.sound import log_mel

_ON_GPU: Final = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
# A processor takes pictures one by one. With several, the values between layers do not fit into its cache.
BATCH: Final = {"rgb": 16 if _ON_GPU else 1, "audio": 16}
# Steps by which the room for embeddings grows.
_ROOM: Final = 512


@dataclass
class Embedded:
    """A video's embeddings.

    Attributes:
        embeddings: modality -> `[T, D]`, float32 or uint8; zero in steps where it is absent.
        present: modality -> bool `[T]`, whether the step has a picture or a sound.
        duration: seconds.
        notes: what was wrong with the file.
    """

    embeddings: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    duration: float
    notes: list[str]


class Model(Protocol):
    """Embeds pictures or sounds. `size` is the number of values of an embedding."""

    size: int

    def run(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """`[B, size]` of pictures `[side, side, 3]` or sounds `[window]`."""
        ...


class Embedder:
    """The models, loaded, and how videos are sampled for them.

    Arguments:
        settings: a modality without a backbone is not read.
        models: by modality, in place of the backbones' files.
        longest: seconds of the longest video.

    Raises:
        DataError: a model's file is missing, or does not run as its card says.
    """

    def __init__(
        self, settings: Settings, models: Mapping[str, Model] | None = None, longest: float = math.inf
    ) -> None:
        by_modality = {backbone.modality: backbone for backbone in settings.backbones}
        self._models = models or {modality: _Model(backbone) for modality, backbone in by_modality.items()}
        self._longest = longest
        rgb, audio = by_modality.get("rgb"), by_modality.get("audio")
        self._sampling = Sampling(
            rate=settings.rate,
            picture_size=rgb.size if rgb else 0,
            sound_window=audio.window if audio else 0,
            picture_time=settings.picture_time,
        )

    def embed(self, path: Path) -> Embedded:
        """Read and embed a file.

        Raises:
            DataError: nothing of it can be read, or it is too long.
        """
        reading = Reading()
        batches = {modality: _Batches(model, BATCH[modality]) for modality, model in self._models.items()}
        for event in read_steps(path, self._sampling, reading):
            if event.step >= self._longest * self._sampling.rate:
                raise DataError(f"{path}: is longer than {self._longest:g} s; cut it")
            modality, value = ("rgb", event.pixels) if isinstance(event, Picture) else ("audio", event.samples)
            batches[modality].add(event.step, value)
        found = {modality: batch.finish(reading.steps) for modality, batch in batches.items()}
        return Embedded(
            {modality: embeddings for modality, (embeddings, _) in found.items()},
            {modality: present for modality, (_, present) in found.items()},
            reading.duration,
            reading.notes,
        )


def one_thread() -> onnxruntime.SessionOptions:
    """How ONNX Runtime opens a model here: in one thread, and silent but for errors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


class _Model:
    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.size = backbone, backbone.embedding_size
        providers = ["CUDAExecutionProvider"] * _ON_GPU + ["CPUExecutionProvider"]
        path = model_file(backbone)
        try:
            self._session = onnxruntime.InferenceSession(str(path), one_thread(), providers=providers)
            self._input = self._session.get_inputs()[0].name
            self._try()
        except Exception as error:  # those of ONNX Runtime share no other base class
            advice = "correct its card" if backbone.file else "remove it, and vidfit makes it again"
            raise DataError(f"{path}: does not run as it should ({reason(error)}); {advice}") from error

    def run(self, values: Sequence[np.ndarray]) -> np.ndarray:
        output = self._session.run([self.backbone.output], {self._input: self._prepared(np.stack(values))})[0]
        return np.asarray(output).reshape(len(values), -1)[:, : self.backbone.embedding_size]

    def _try(self) -> None:
        """Embed two blank pictures or sounds: what is wrong with a model shows before videos are read."""
        backbone = self.backbone
        picture, sound = np.zeros((backbone.size, backbone.size, 3), np.uint8), np.zeros(backbone.window, np.float32)
        found = self.run([picture if backbone.modality == "rgb" else sound] * 2).shape[1]
        if found < backbone.embedding_size:
            raise DataError(f"embedding_size is {backbone.embedding_size:,}, but the output has {found:,} values")

    def _prepared(self, values: np.ndarray) -> np.ndarray:
        backbone = self.backbone
        if backbone.modality == "audio":
            values = log_mel(values, backbone.log_offset)[:, None]
        mean, deviation = np.array(backbone.mean, np.float32), np.array(backbone.deviation, np.float32)
        if any(backbone.mean) or backbone.deviation != (1.0,):
            values = (values - mean) / deviation
        if backbone.dtype == "uint8" and values.dtype != np.uint8:
            values = np.clip(np.rint(values), 0, 255)
        if backbone.modality == "rgb" and backbone.channels == "first":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, backbone.dtype)


class _Batches:
    """Collects what a model is to embed, and embeds it `size` at a time."""

    def __init__(self, model: Model, size: int) -> None:
        self._model, self._size = model, size
        self._waiting: list[np.ndarray] = []
        self._steps: list[int] = []
        # Room for the steps so far. It grows in place: a long video has its embeddings in memory once.
        self._embeddings = np.zeros((0, model.size), np.float32)
        self._present = np.zeros(0, bool)

    def add(self, step: int, value: np.ndarray) -> None:
        self._steps.append(step)
        self._waiting.append(value)
        if len(self._waiting) == self._size:
            self._run()

    def finish(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings `[T, D]` and whether each step has one, bool `[T]`."""
        if self._waiting:
            self._run()
        # A window may be complete although its step is cut off at the end.
        self._resize(steps)
        return self._embeddings, self._present

    def _run(self) -> None:
        found = self._model.run(self._waiting)
        if not self._present.any():
            self._embeddings = self._embeddings.astype(found.dtype)
        if self._steps[-1] >= len(self._present):
            self._resize(self._steps[-1] + _ROOM)
        self._embeddings[self._steps] = found
        self._present[self._steps] = True
        self._waiting, self._steps = [], []

    def _resize(self, steps: int) -> None:
        """Keep the first steps; new ones are zero and absent."""
        self._embeddings.resize((steps, self._embeddings.shape[1]), refcheck=False)
        self._present.resize(steps, refcheck=False)
