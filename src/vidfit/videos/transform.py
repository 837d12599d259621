"""Embeddings to the bytes of a shard: the principal components, all by one factor to the range of a byte.

No whitening: components of little variance stay small, and rounding drops much of them. With the same spread for all,
a frame classifier learns their noise (benchmarks/LOG.md, "Extraction").

A byte x stands for `x * 4/255 + 4/512 - 2`, so a value of 0, the mean of the training videos, is byte 127. That byte is
also what an absent picture or sound is: all 127. A model that normalises frames gets nothing from it, and the other
modality in full.

Embeddings that are whitened components already, YouTube-8M's, become bytes as they are.

The matrix is kept in 8 bits per component, and used as it is kept: a packed file carries it.
"""

import base64
from collections.abc import Iterable
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

ABSENT: Final = 127
"""The byte of every value of a modality that a step does not have."""

BLOCK: Final = 512
"""Steps that are converted at once: a long video needs no more memory than a short one."""

# Root mean square of the first component; bytes reach from -2 to 2.
_SPREAD: Final = 0.7


def _array(dtype: str) -> Any:
    """A NumPy array in JSON: shape and the base64 of its bytes."""

    def read(value: Any) -> np.ndarray:
        if isinstance(value, np.ndarray):
            return value.astype(dtype)
        return np.frombuffer(base64.b64decode(value["base64"]), dtype).reshape(value["shape"])

    def write(value: np.ndarray) -> dict[str, Any]:
        data = np.ascontiguousarray(value, dtype).tobytes()
        return {"shape": list(value.shape), "base64": base64.b64encode(data).decode()}

    return Annotated[np.ndarray, BeforeValidator(read), PlainSerializer(write)]


class Transform(BaseModel):
    """`byte = round(((embedding - mean) @ components * scale + 2 - 4/512) * 255/4)`, clipped to 0 to 255.

    Attributes:
        mean: float32 `[D]`, of the training videos' embeddings.
        components: int8 `[D, K]`, principal components, the first explains most; None is the identity.
        scale: float32 `[K]`, from a component in 8 bits to the range [-2, 2] of a byte.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    mean: _array("<f4")  # type: ignore[valid-type]
    components: _array("i1") | None  # type: ignore[valid-type]
    scale: _array("<f4")  # type: ignore[valid-type]

    @property
    def size(self) -> int:
        """Bytes of a step, K."""
        return len(self.scale)

    def apply(self, embeddings: np.ndarray, present: np.ndarray) -> np.ndarray:
        """uint8 `[T, K]` of embeddings `[T, D]`; byte 127 throughout where `present`, bool `[T]`, is False."""
        blocks = range(0, len(embeddings), BLOCK)
        codes = [self._codes(embeddings[first : first + BLOCK]) for first in blocks]
        return np.where(present[:, None], np.concatenate(codes), np.uint8(ABSENT))

    def _codes(self, embeddings: np.ndarray) -> np.ndarray:
        centred = embeddings.astype(np.float32) - self.mean
        if self.components is not None:
            components = self.components.astype(np.float32)
            # One step at a time: a product of many rows may round otherwise than one of few.
            centred = np.stack([row @ components for row in centred])
        values = centred * self.scale
        return np.clip(np.rint((values + (2 - 4 / 512)) * (255 / 4)), 0, 255).astype(np.uint8)


def youtube8m_transform(size: int) -> Transform:
    """YouTube-8M's bytes of whitened embeddings, `[T, size]`: `byte = round((clip(x, -2, 2) + 2) * 255/4)`.

    That is half a step more than the value which the byte stands for, hence the mean.

    Source: `quantize` in extract_tfrecords_main.py of google/youtube-8m.
    """
    return Transform(mean=np.full(size, -4 / 512), components=None, scale=np.ones(size))  # type: ignore[arg-type]


def fit_transform(embeddings: Iterable[np.ndarray], size: int) -> Transform:
    """The transform of some training videos.

    Arguments:
        embeddings: blocks `[T, D]` of one video after another, of the steps that have one; at least two steps in all.
        size: components to keep; fewer where the embeddings have fewer dimensions.
    """
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for block in embeddings:
        values = block.astype(np.float64)
        count += len(values)
        total = total + values.sum(0)
        products = products + values.T @ values
    mean = total / count
    variances, components = np.linalg.eigh(products / count - np.outer(mean, mean))
    order = np.argsort(variances)[::-1][:size]
    variances, components = variances[order], components[:, order]
    # The sign of a component is arbitrary; fixed, so that a library's version does not decide it.
    components = components * np.sign(components[np.abs(components).argmax(0), np.arange(len(order))])
    # Embeddings that are all alike vary by rounding errors alone: every byte is 127.
    varied = variances[0] > 1e-9 * np.square(mean).sum()
    scale = _SPREAD / np.sqrt(variances[0]) if varied else 0.0
    steps = np.abs(components).max(0) / 127
    codes = np.rint(components / steps).astype(np.int8)
    return Transform(mean=mean.astype(np.float32), components=codes, scale=(scale * steps).astype(np.float32))
