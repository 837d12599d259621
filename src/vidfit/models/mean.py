"""Mean pooling: the average of a video's frames. It has no weights.

With a logistic head it is the starter code's frame-level logistic model, the baseline.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import mean_frames


class MeanConfig(BaseModel):
    """Mean pooling has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["mean"] = "mean"


class MeanPooling(nn.Module):
    """Average over a video's real frames.

    Source: YouTube-8M starter code, `FrameLevelLogisticModel`.
    """

    def __init__(self, config: MeanConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.output_size = spec.total_size

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` (None: each frame counts once) -> float32 `[B, D]`."""
        return mean_frames(frames_BTD, weights_BT)
