"""A hidden layer in front of a family: `dropout(ReLU(BN(x W)))` of each frame, over all modalities.

The family then pools learned features instead of stored ones, for D * H more weights. It sees a single modality, named
`frame`.

Shapes: B videos, T frames, D features, H hidden.
"""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.batch_norm import BatchNorm


class EncoderConfig(BaseModel):
    """Size and dropout of the frame layer.

    Attributes:
        hidden: H, the size of a frame as the family sees it.
        dropout: fraction of the outputs that a training step drops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FrameEncoder(nn.Module):
    """The frame layer. Its attribute `spec` describes its output.

    Arguments:
        config: size and dropout.
        spec: modalities of the frames it reads.
    """

    def __init__(self, config: EncoderConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = FeatureSpec(modalities=(Modality(name="frame", size=config.hidden, dtype="float32"),))
        # He et al. 2015, eq. 10, for a layer before a batch norm.
        std = (2 / spec.total_size) ** 0.5
        self.weights = nn.Parameter(nn.init.normal_(torch.empty(spec.total_size, config.hidden), std=std))
        self.norm = BatchNorm(config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` (None: each frame counts once) -> float32 `[B, T, H]`."""
        return self.dropout(torch.relu(self.norm(frames_BTD @ self.weights, weights_BT)))
