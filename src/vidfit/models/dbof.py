"""Deep bag of frames: how much of a video falls into each of many clusters.

With assignments to K clusters per modality, pooled over the frames in one of three ways:

- `max`: `max_t ReLU6(BN(x_t W))`, the starter code's;
- `soft`: `sum_t softmax(BN(x_t W))`, scaled to L2 norm 1;
- `gated`: the soft sum times a gate computed from `max_t softmax(BN(x_t W))`, scaled to L2 norm 1.

The descriptor has only K numbers per modality, so K can be in the thousands, and `[B, T, K]` is the largest tensor. A
gate costs 2 D * K weights. The winners gate rgb, which carries the most evidence, and leave audio soft.

Shapes: B videos, T frames, D features, K clusters.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import NormalisedFrames, max_frames, sum_frames
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.layers import inverse_norm
from vidfit.models.pooled import Pool, PooledConfig, PooledFamily, per_modality

Pooling = Literal["max", "soft", "gated"]


class DBoFConfig(PooledConfig):
    """Options of Deep Bag of Frames. The winners took K = 4096, gated, for rgb, and 512, soft, for audio."""

    type: Literal["dbof"] = "dbof"
    pooling: Pooling | dict[str, Pooling] = Field(default="gated", description="for all modalities, or one by name")


class ClusterGate(nn.Module):
    """`sigmoid(BN(normalise(m) R W))`: how much to damp each cluster, from its largest assignment m over the frames."""

    def __init__(self, size: int, clusters: int) -> None:
        super().__init__()
        self.reduction = nn.Parameter(torch.empty(clusters, size))
        self.weights = nn.Parameter(torch.empty(size, clusters))
        self.norm = BatchNorm(clusters)

    def forward(self, largest_BK: Tensor) -> Tensor:
        """float32 `[B, K]` -> gates in (0, 1), `[B, K]`."""
        normalised_BK = largest_BK * inverse_norm(largest_BK, dim=1)
        return torch.sigmoid(self.norm(normalised_BK @ self.reduction @ self.weights))


class Bag(Pool):
    """The descriptor of one modality, float32 `[B, K]`.

    Source: Abu-El-Haija et al. 2016, section 3.2 (`max`); Miech et al. 2017 (`soft`); Skalic & Austin 2018 (`gated`).
    """

    def __init__(self, size: int, clusters: int, pooling: Pooling) -> None:
        super().__init__(size, clusters)
        self.output_size = clusters
        self.pooling = pooling
        self.gate = ClusterGate(size, clusters) if pooling == "gated" else None

    def reset_parameters(self) -> None:
        """All weights normal, as in the original."""
        super().reset_parameters()
        if self.gate is not None:
            std = len(self.gate.weights) ** -0.5
            nn.init.normal_(self.gate.reduction, std=std)
            nn.init.normal_(self.gate.weights, std=std)

    def forward(self, frames: NormalisedFrames) -> Tensor:
        logits_BTK = self.assignment(frames)
        if self.pooling == "max":
            return max_frames(F.relu6(logits_BTK), frames.weights_BT)
        assign_BTK = logits_BTK.softmax(dim=-1)
        bag_BK = sum_frames(assign_BTK, frames.weights_BT)
        if self.gate is not None:
            bag_BK = bag_BK * self.gate(max_frames(assign_BTK, frames.weights_BT))
        return bag_BK * inverse_norm(bag_BK, dim=1)


class DBoF(PooledFamily):
    """Frames to the head's input by deep bag of frames.

    Raises:
        RecipeError: `clusters` or `pooling` names other modalities than the spec.
    """

    def __init__(self, config: DBoFConfig, spec: FeatureSpec) -> None:
        clusters = per_modality(config.clusters, spec, "clusters")
        poolings = per_modality(config.pooling, spec, "pooling")
        options = zip(spec.modalities, clusters, poolings, strict=True)
        super().__init__(config, spec, [Bag(modality.size, k, pooling) for modality, k, pooling in options])
