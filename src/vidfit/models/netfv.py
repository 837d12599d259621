"""NetFV: a Fisher vector per modality. It sums the first and second order of residuals to learned clusters.

With assignments `a_t = softmax(BN(x_t W))`, centres c and variances `s^2`, elementwise:

    first_k  = sum_t a_tk (x_t - c_k) / s_k^2
    second_k = sum_t a_tk ((x_t - c_k)^2 / s_k^4 - 1)

As in the original, which divides by the variance where the paper divides by the deviation. The first order is scaled
to L2 norm 1 per cluster and then as a whole, the second order as a whole only. The descriptor has 2 K * D numbers per
modality, twice those of NetVLAD.

Shapes: B videos, T frames, D features, K clusters.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.pooling import NormalisedFrames
from vidfit.models.layers import flatten_scaled, intra_norm, inverse_norm
from vidfit.models.pooled import Pool, PooledConfig, PooledFamily, per_modality


class NetFVConfig(PooledConfig):
    """Options of NetFV. The winners took K = 96 for rgb and 48 for audio."""

    type: Literal["netfv"] = "netfv"


class FisherVector(Pool):
    """The descriptor of one modality, float32 `[B, 2 K * D]`: first order, then second.

    Source: Perronnin & Dance 2007; Miech et al. 2017, section 4.1.
    """

    def __init__(self, size: int, clusters: int) -> None:
        super().__init__(size, clusters)
        self.output_size = 2 * clusters * size
        self.centres = nn.Parameter(torch.empty(size, clusters))
        self.deviations = nn.Parameter(torch.empty(size, clusters))

    def reset_parameters(self) -> None:
        """All weights normal, as in the original."""
        super().reset_parameters()
        std = len(self.centres) ** -0.5
        nn.init.normal_(self.centres, std=std)
        nn.init.normal_(self.deviations, mean=1.0, std=std)

    def forward(self, frames: NormalisedFrames) -> Tensor:
        assign_BTK = self.assignment(frames).softmax(dim=-1)
        first_BKD, second_BKD, mass_BK1 = frames.residual_moments(assign_BTK, self.centres)
        variance_KD = self.deviations.T.square() + 1e-6
        first_BKD = first_BKD / variance_KD
        second_BKD = second_BKD / variance_KD.square() - mass_BK1
        first_BP = flatten_scaled(first_BKD, intra_norm(first_BKD))
        # The original normalises the second order twice, which is the same as once.
        second_BP = flatten_scaled(second_BKD, inverse_norm(second_BKD.flatten(1), dim=1)[:, :, None])
        return torch.cat([first_BP, second_BP], dim=1)


class NetFV(PooledFamily):
    """Frames to the head's input by NetFV.

    Raises:
        RecipeError: `clusters` names other modalities than the spec.
    """

    def __init__(self, config: NetFVConfig, spec: FeatureSpec) -> None:
        clusters = per_modality(config.clusters, spec, "clusters")
        sizes = [modality.size for modality in spec.modalities]
        super().__init__(config, spec, [FisherVector(size, k) for size, k in zip(sizes, clusters, strict=True)])
