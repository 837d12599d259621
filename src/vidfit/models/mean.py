"""Mean pooling: the average of a video's frames, the baseline that users would otherwise pick.

It has no weights of its own; with a logistic head it is the starter code's frame-level logistic model.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.models.layers import summed


class MeanConfig(BaseModel):
    """Mean pooling has nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["mean"] = "mean"


class MeanPooling(nn.Module):
    """Average over a video's real frames.

    Source: YouTube-8M starter code, `FrameLevelLogisticModel`.
    """

    def __init__(self, config: MeanConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.output_size = spec.total_size

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and counts `[B, T]` (or None: each slot counts once) -> float32 `[B, D]`."""
        if counts_BT is None:
            return frames_BTD.mean(dim=1)
        return summed(frames_BTD, counts_BT) / counts_BT.sum(dim=1, keepdim=True)
