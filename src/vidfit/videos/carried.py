"""The models for pictures and sounds that a packed file carries: pictures and sounds to the bytes of frames."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from vidfit.features.spec import FeatureSpec
from vidfit.videos.embed import Embedded, one_thread
from vidfit.videos.transform import ABSENT

_MODALITIES = {"pictures": "rgb", "sounds": "audio"}


class CarriedPart:
    """Pictures or sounds to the bytes of frames, in one thread. A pickle of it holds the model.

    Arguments:
        content: a part of the file, as `split` gives it.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._session = onnxruntime.InferenceSession(content, one_thread(), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.size = int(self._session.get_outputs()[0].shape[1])

    def run(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 `[B, K]` of pictures uint8 `[side, side, 3]` or sounds float32 `[window]`."""
        return np.asarray(self._session.run(None, {self._input: np.stack(values)})[0])

    def __reduce__(self) -> tuple[type["CarriedPart"], tuple[bytes]]:
        return CarriedPart, (self.content,)


class CarriedModels:
    """All that a file carries.

    Arguments:
        parts: of the file, as `split` gives them.
        spec: of the frames that its members read.

    Attributes:
        by_modality: the models, for `Embedder`.
    """

    def __init__(self, parts: Mapping[str, bytes], spec: FeatureSpec) -> None:
        self.by_modality = {_MODALITIES[name]: CarriedPart(part) for name, part in parts.items() if name in _MODALITIES}
        self._spec = spec

    def frames(self, embedded: Embedded) -> dict[str, np.ndarray]:
        """uint8 `[T, K]` by modality, of what the models gave. A modality without a model is absent throughout."""
        steps = len(next(iter(embedded.present.values())))
        frames = {it.name: np.full((steps, it.size), ABSENT, np.uint8) for it in self._spec.modalities}
        for name, present in embedded.present.items():
            frames[name][present] = embedded.embeddings[name][present]
        return frames

    @property
    def digest(self) -> str:
        """The same for the same models."""
        contents = (part.content for _, part in sorted(self.by_modality.items()))
        return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()
