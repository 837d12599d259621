"""NetVLAD: assign each frame softly to clusters and sum residuals to their centres. The light form sums the frames.

Per modality, with assignments `a_t = softmax(BN(x_t W))` and centres c: `V_k = sum_t a_tk (x_t - c_k)`. Each V_k is
scaled to L2 norm 1, then all together. The descriptor has K * D numbers per modality, so the hidden layer behind it
holds nearly all weights.

Shapes: B videos, T frames, D features, K clusters.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import NormalisedFrames
from vidfit.models.layers import flatten_scaled, intra_norm
from vidfit.models.pooled import Pool, PooledConfig, PooledFamily, per_modality


class NetVLADConfig(PooledConfig):
    """Options of NetVLAD. The winners took K = 256 for rgb and 128 for audio."""

    type: Literal["netvlad"] = "netvlad"
    light: bool = Field(default=False, description="sum the frames themselves, not their distances to centres")


class VLAD(Pool):
    """The descriptor of one modality, float32 `[B, K * D]`.

    Source: Arandjelovic et al. 2016, eq. 4; Miech et al. 2017, section 4.1 (light form).
    """

    def __init__(self, size: int, clusters: int, *, light: bool) -> None:
        super().__init__(size, clusters)
        self.output_size = clusters * size
        self.centres = None if light else nn.Parameter(torch.empty(size, clusters))

    def reset_parameters(self) -> None:
        """All weights normal, as in the original."""
        super().reset_parameters()
        if self.centres is not None:
            nn.init.normal_(self.centres, std=len(self.centres) ** -0.5)

    def forward(self, frames: NormalisedFrames) -> Tensor:
        assign_BTK = self.assignment(frames).softmax(dim=-1)
        residuals_BKD = frames.residual_sums(assign_BTK, self.centres)
        return flatten_scaled(residuals_BKD, intra_norm(residuals_BKD))


class NetVLAD(PooledFamily):
    """Frames to the head's input by NetVLAD.

    Raises:
        RecipeError: `clusters` names other modalities than the spec.
    """

    def __init__(self, config: NetVLADConfig, spec: FeatureSpec) -> None:
        clusters = per_modality(config.clusters, spec, "clusters")
        sizes = [modality.size for modality in spec.modalities]
        pools = [VLAD(size, k, light=config.light) for size, k in zip(sizes, clusters, strict=True)]
        super().__init__(config, spec, pools)
