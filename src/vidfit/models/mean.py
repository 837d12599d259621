"""Mean pooling: the average of a video's frames, and the largest value of each feature if wanted. It has no weights.

With a logistic head it is the starter code's frame-level logistic model, the baseline.

Shapes: B videos, T frames, D features.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import max_frames, mean_frames


class MeanConfig(BaseModel):
    """Options of mean pooling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["mean"] = "mean"
    max: bool = Field(default=False, description="the largest value of each feature beside its mean")


class MeanPooling(nn.Module):
    """Average over a video's real frames, and on request their maximum.

    Source: YouTube-8M starter code, `FrameLevelLogisticModel`.
    """

    def __init__(self, config: MeanConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.max = config.max
        self.output_size = spec.total_size * (2 if config.max else 1)

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """The mean, float32 `[B, D]`; with `max` the maximum beside it, `[B, 2 D]`.

        Arguments:
            frames_BTD: float32.
            weights_BT: float32, how many times each frame counts; None means once each.
        """
        mean_BD = mean_frames(frames_BTD, weights_BT)
        return torch.cat([mean_BD, max_frames(frames_BTD, weights_BT)], dim=1) if self.max else mean_BD
