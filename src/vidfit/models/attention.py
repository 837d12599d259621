"""Attentive pooling: learned queries choose which frames of a video to average.

With frames `x_t = BN(frame_t)` and h heads: `o = concat_h sum_t a_th v_th`, where `a_th = softmax over t of (x_t Q)_h`
and `v_t = x_t V` is cut into h parts. `hidden(o)`, a layer with batch norm and ReLU6, goes to the head. The queries are
the same for all videos, so Q is the product of queries and keys.

It is small, and strong behind an encoder.

Shapes: B videos, T frames, D features, A heads, S values of all heads together, H hidden.

Source: Lee et al. 2019 (arXiv 1810.00825), section 3.2 (pooling by multi-head attention, one seed); without its layer
norms and residuals.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import NormalisedFrames, exponentials, sum_frames
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.layers import Hidden


class AttentionConfig(BaseModel):
    """Options of attentive pooling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["attention"] = "attention"
    heads: PositiveInt = Field(default=8, description="A, how many averages of a video")
    values: PositiveInt = Field(description="S, a multiple of A: the size of all averages together")
    hidden: PositiveInt = Field(description="H, the size of the vector that the head reads")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="fraction of the averages to drop in training")

    @model_validator(mode="after")
    def _heads_share_values(self) -> "AttentionConfig":
        if self.values % self.heads:
            raise ValueError(f"values {self.values} cannot be divided among {self.heads} heads; give a multiple")
        return self


class AttentionPooling(nn.Module):
    """Frames to the head's input.

    Arguments:
        config: sizes.
        spec: modalities of a frame.
    """

    def __init__(self, config: AttentionConfig, spec: FeatureSpec) -> None:
        super().__init__()
        size = spec.total_size
        self.input_norm = BatchNorm(size)
        # Glorot: scores and values keep the frames' variance.
        self.queries = nn.Parameter(nn.init.xavier_normal_(torch.empty(size, config.heads)))
        self.values = nn.Parameter(nn.init.xavier_normal_(torch.empty(size, config.values)))
        self.hidden = Hidden(config.values, config.hidden, batch_norm=True, relu=True, dropout=config.dropout)
        self.hidden.reset_parameters(config.heads)
        self.output_size = config.hidden

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` (None: each frame counts once) -> float32 `[B, H]`."""
        scale_D, shift_D = self.input_norm.scale_and_shift(frames_BTD, weights_BT)
        frames = NormalisedFrames(frames_BTD, weights_BT, scale_D, shift_D)
        scores_BTA, _ = exponentials(frames.times(self.queries), weights_BT)
        values_BATV = frames.times(self.values).unflatten(2, (scores_BTA.shape[2], -1)).transpose(1, 2)
        totals_BA = sum_frames(scores_BTA, weights_BT)
        if weights_BT is not None:
            scores_BTA = scores_BTA * weights_BT[:, :, None]
        sums_BAV = (scores_BTA.transpose(1, 2)[:, :, None] @ values_BATV)[:, :, 0]
        return self.hidden((sums_BAV / totals_BA[:, :, None]).flatten(1))
