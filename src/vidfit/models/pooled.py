"""What every family that pools frames over clusters shares: NetVLAD, NetFV, DBoF.

`context_gating(hidden(concat(pool_m(BN(frames)_m))))`, with one pool per modality m. A family brings only its pool.

Shapes: B videos, T frames, D features, K clusters, P descriptor, H hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.errors import RecipeError
from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import NormalisedFrames
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.heads import ContextGating
from vidfit.models.layers import Assignment, Hidden

Option = TypeVar("Option")


class PooledConfig(BaseModel):
    """Options of every pooling family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clusters: PositiveInt | dict[str, PositiveInt] = Field(description="K, one value or `{rgb: 256, audio: 128}`")
    hidden: PositiveInt = Field(description="H, the size of the vector that the head reads")
    relu: bool = Field(default=False, description="batch norm and ReLU6 after the hidden layer, instead of a bias")
    gating: bool = Field(default=True, description="context gating after the hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="fraction of the descriptor to drop in training")


class Pool(nn.Module, ABC):
    """One modality's frames to its part of the descriptor.

    Arguments:
        size: D, features of the modality.
        clusters: K.

    Attributes:
        output_size: length of this part of the descriptor; a subclass sets it.
    """

    output_size: int

    def __init__(self, size: int, clusters: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.assignment = Assignment(size, clusters)

    def reset_parameters(self) -> None:
        """Initial weights. Batch norms start as the identity."""
        self.assignment.reset_parameters()

    @abstractmethod
    def forward(self, frames: NormalisedFrames) -> Tensor:
        """float32 `[B, output_size]`."""


class PooledFamily(nn.Module):
    """Frames to the head's input.

    Arguments:
        config: sizes and options.
        spec: modalities, in the order in which a frame holds them.
        pools: one per modality, in the same order.
    """

    def __init__(self, config: PooledConfig, spec: FeatureSpec, pools: Sequence[Pool]) -> None:
        super().__init__()
        self.columns = list(spec.slices().values())
        self.input_norm = BatchNorm(spec.total_size)
        self.pools = nn.ModuleList(pools)
        descriptor_size = sum(pool.output_size for pool in pools)
        self.hidden = Hidden(
            descriptor_size, config.hidden, batch_norm=config.relu, relu=config.relu, dropout=config.dropout
        )
        self.gating = ContextGating(config.hidden) if config.gating else None
        self.output_size = config.hidden
        for pool in pools:
            pool.reset_parameters()
        self.hidden.reset_parameters(max(pool.clusters for pool in pools))

    def pool(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """The descriptor: the pools of all modalities side by side, float32 `[B, P]`."""
        scale_D, shift_D = self.input_norm.scale_and_shift(frames_BTD, weights_BT)
        frames = NormalisedFrames(frames_BTD, weights_BT, scale_D, shift_D)
        parts = [pool(frames.columns(own)) for pool, own in zip(self.pools, self.columns, strict=True)]
        return torch.cat(parts, dim=1)

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` (None: each frame counts once) -> float32 `[B, H]`."""
        hidden_BH = self.hidden(self.pool(frames_BTD, weights_BT))
        return hidden_BH if self.gating is None else self.gating(hidden_BH)


def per_modality(option: Option | dict[str, Option], spec: FeatureSpec, field: str) -> list[Option]:
    """An option of a recipe, given once or by modality, as a list in the spec's order.

    Raises:
        RecipeError: the names are not those of the modalities.
    """
    names = [modality.name for modality in spec.modalities]
    if not isinstance(option, dict):
        return [option] * len(names)
    if set(option) != set(names):
        raise RecipeError(f"{field}: names {sorted(option)}, but the shards hold {sorted(names)}; give each a value")
    return [option[name] for name in names]
