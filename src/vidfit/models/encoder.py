"""Hidden layers in front of a family: each is `dropout(ReLU(BN(x W)))` of each frame, over all modalities.

The family then pools learned features instead of stored ones, for D * H more weights per layer. It sees a single
modality, named `frame`.

A GRU in both directions may follow (`models/recurrent.py` has its formulas). Then a frame knows its whole video.

Shapes: B videos, T frames, D features, H hidden or cells.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.kernels.dropout import Dropout
from vidfit.kernels.recurrent import outputs
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.recurrent import Layer


class EncoderConfig(BaseModel):
    """Hidden layers with batch norm and ReLU before the family. They merge all modalities into one, named `frame`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1, max_length=3)] = Field(
        description="one size, or a list of up to three; the family sees frames of the last"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="fraction of each layer's outputs to drop in training")
    cells: PositiveInt | None = Field(
        default=None,
        description="a GRU of so many cells in each direction over the last layer's frames: each then knows its "
        "whole video",
    )

    @property
    def sizes(self) -> list[int]:
        """H of each layer."""
        return self.hidden if isinstance(self.hidden, list) else [self.hidden]


class FrameEncoder(nn.Module):
    """The first frame layer, followed by the deeper ones. Its attribute `spec` describes what the last one returns.

    Arguments:
        sizes: H of each layer.
        dropout: fraction of each layer's outputs to drop.
        spec: modalities of the frames it reads.
        cells: of a GRU at the end, in each direction; None for none.
    """

    def __init__(self, sizes: Sequence[int], dropout: float, spec: FeatureSpec, cells: int | None = None) -> None:
        super().__init__()
        size, *deeper = sizes
        self.spec = _of_frames(size)
        # He et al. 2015, eq. 10, for a layer before a batch norm.
        std = (2 / spec.total_size) ** 0.5
        self.weights = nn.Parameter(nn.init.normal_(torch.empty(spec.total_size, size), std=std))
        self.norm = BatchNorm(size)
        self.dropout = Dropout(dropout)
        self.deeper: FrameEncoder | FrameGRU | None = None
        if deeper:
            self.deeper = FrameEncoder(deeper, dropout, self.spec, cells)
        elif cells:
            self.deeper = FrameGRU(size, cells)
        if self.deeper is not None:
            self.spec = self.deeper.spec

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` (None: each frame counts once) -> float32 `[B, T, H]`."""
        hidden_BTH = self.dropout(torch.relu(self.norm(frames_BTD @ self.weights, weights_BT)))
        return hidden_BTH if self.deeper is None else self.deeper(hidden_BTH, weights_BT)


class FrameGRU(nn.Module):
    """A GRU in both directions over the frames of each video, as an encoder's last layer.

    Arguments:
        size: D.
        cells: H in each direction.
    """

    def __init__(self, size: int, cells: int) -> None:
        super().__init__()
        self.spec = _of_frames(2 * cells)
        self.layer = Layer("gru", size, cells, bidirectional=True)
        self.layer.reset_parameters()

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights, 1 or 0 -> float32 `[B, T, 2 H]`."""
        return outputs(self.layer, frames_BTD, weights_BT)


def _of_frames(size: int) -> FeatureSpec:
    return FeatureSpec(modalities=(Modality(name="frame", size=size, dtype="float32"),))
