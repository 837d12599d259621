"""A hidden layer that all frames share, in front of a family: it sees each frame alone, and all modalities together.

`dropout(ReLU(BN(x W)))`. It lets a family pool learned features instead of the stored ones, at the price of D x H
weights, and it merges the modalities: behind it a family has one, named `frame`.

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
        hidden: H, what the family sees of a frame.
        dropout: share of its outputs that a training step leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FrameEncoder(nn.Module):
    """The frame layer; `spec` is that of its output.

    Arguments:
        config: size and dropout.
        spec: modalities of the frames that it reads.
    """

    def __init__(self, config: EncoderConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.spec = FeatureSpec(modalities=(Modality(name="frame", size=config.hidden, dtype="float32"),))
        # In front of a batch norm: He et al. 2015, eq. 10.
        std = (2 / spec.total_size) ** 0.5
        self.weights = nn.Parameter(nn.init.normal_(torch.empty(spec.total_size, config.hidden), std=std))
        self.norm = BatchNorm(config.hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and counts `[B, T]` (or None: each slot counts once) -> float32 `[B, T, H]`."""
        return self.dropout(torch.relu(self.norm(frames_BTD @ self.weights, counts_BT)))
