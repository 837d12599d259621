"""Mean pooling: the average of a video's frames, the baseline that users would otherwise pick.

It has no weights of its own; with a logistic head it is the starter code's frame-level logistic model.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec


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

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and bool `[B, T]` (or None: every slot holds a frame) -> float32 `[B, D]`."""
        if mask_BT is None:
            return frames_BTD.mean(dim=1)
        weights_BT1 = mask_BT[:, :, None].to(frames_BTD.dtype)
        return (frames_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
