"""What is known of a model that turns pictures or sounds into embeddings."""

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

TIMM: Final = "timm:"
YOUTUBE8M: Final = "youtube8m"


class Backbone(BaseModel):
    """A model in ONNX that embeds pictures or sounds.

    Its input is the pictures, `[B, size, size, 3]` (or `[B, 3, size, size]`), or the log-mel spectrograms of sounds,
    `[B, 1, T, 64]`. What it gets is `(value - mean) / deviation`, pixels counting from 0 to 255.

    Attributes:
        name: what it is called.
        modality: `rgb` for pictures, `audio` for sounds; also the feature's name in the shards.
        sha256: of the weights; other files are refused.
        embedding_size: values of an embedding.
        output: name of the embedding among the model's outputs; of each, the first `embedding_size` values count.
        size: pictures: height and width in pixels.
        channels: pictures: `last` for `[B, H, W, 3]`, `first` for `[B, 3, H, W]`.
        mean, deviation: subtracted from the values, and what they are divided by then; one number per channel, or one.
        dtype: of the input; integers are rounded and clipped.
        window: sounds: samples at 16 kHz, `400 + 160 (T - 1)`.
        log_offset: sounds: added to the mel bands before the logarithm.
        whitened: the embedding's values have a variance of 1 already: they become bytes as they are, without PCA.
        file: where the ONNX file was when the features were made, for models of your own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[^/\\]+$")
    modality: Literal["rgb", "audio"]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    embedding_size: int = Field(ge=1)
    output: str
    size: int = Field(default=224, ge=16)
    channels: Literal["first", "last"] = "last"
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    dtype: Literal["uint8", "float32"] = "float32"
    window: int = Field(default=15600, ge=400)
    log_offset: float = Field(default=0.001, gt=0)
    whitened: bool = False
    file: Path | None = None
