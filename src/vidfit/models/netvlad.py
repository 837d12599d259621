"""NetVLAD: soft-assigns each frame to clusters and sums residuals to their centres; the light form sums the frames.

Per modality: softmax over clusters, residual sums, each cluster to norm 1, the whole to norm 1; then one hidden layer
over all modalities and context gating. The descriptor is long (K x D a modality), so nearly all weights sit in the
hidden layer; `[B, T, K, D]` residuals are never made, as their sum is a matmul less a rank-one term.

Shapes: B videos, T frames, D features, K clusters, P descriptor, H hidden.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.heads import ContextGating
from vidfit.models.layers import (
    Assignment,
    Hidden,
    flatten_scaled,
    normalising,
    per_modality,
    pool_modalities,
    summed,
)


class NetVLADConfig(BaseModel):
    """Sizes and options of NetVLAD.

    Attributes:
        clusters: K, one number for all modalities or one by name (the winners: 256 for rgb, 128 for audio).
        hidden: H, what the head sees.
        light: sum frames instead of residuals; half the cluster weights.
        relu: batch norm and ReLU6 after the hidden layer instead of a bias.
        gating: context gating after the hidden layer.
        dropout: share of the descriptor that a training step leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["netvlad"] = "netvlad"
    clusters: PositiveInt | dict[str, PositiveInt]
    hidden: PositiveInt
    light: bool = False
    relu: bool = False
    gating: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class VLAD(nn.Module):
    """The descriptor of one modality.

    Source: Arandjelovic et al. 2016, eq. 4; Miech et al. 2017, section 4.1 (light form).

    Arguments:
        size: D, features of the modality.
        clusters: K.
        light: no centres.
    """

    def __init__(self, size: int, clusters: int, *, light: bool) -> None:
        super().__init__()
        self.assignment = Assignment(size, clusters)
        self.centres = None if light else nn.Parameter(torch.empty(size, clusters))
        # Replaced in a packed graph (`export/descriptor.py`).
        self.flatten_scaled: Callable[[Tensor, Tensor], Any] = flatten_scaled

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None, scale_D: Tensor, shift_D: Tensor) -> Tensor:
        """Pools `frames * scale + shift` to float32 `[B, K * D]`."""
        assign_BTK = self.assignment(frames_BTD, counts_BT, scale_D, shift_D).softmax(dim=-1)
        mass_BK1 = summed(assign_BTK, counts_BT)[:, :, None]
        if counts_BT is not None:
            assign_BTK = assign_BTK * counts_BT[:, :, None]
        sums_BKD = assign_BTK.transpose(1, 2) @ frames_BTD
        centres_DK = self.centres
        offset = shift_D if centres_DK is None else shift_D - centres_DK.T
        residuals_BKD = sums_BKD * scale_D + mass_BK1 * offset
        return self.flatten_scaled(residuals_BKD, normalising(residuals_BKD))


def reset_parameters(pools: Sequence[VLAD], hidden: Hidden) -> None:
    """Initial weights of the family, all normal, as in the original. Batch norms start as the identity."""
    for pool in pools:
        size = pool.assignment.weights.shape[0]
        nn.init.normal_(pool.assignment.weights, std=size**-0.5)
        if pool.centres is not None:
            nn.init.normal_(pool.centres, std=size**-0.5)
    clusters = max(pool.assignment.weights.shape[1] for pool in pools)
    hidden.reset_parameters(clusters)


class NetVLAD(nn.Module):
    """Frames to the head's input by NetVLAD.

    Arguments:
        config: sizes and options.
        spec: modalities, in the order in which a frame holds them.

    Raises:
        RecipeError: `clusters` names other modalities than the spec.
    """

    def __init__(self, config: NetVLADConfig, spec: FeatureSpec) -> None:
        super().__init__()
        clusters = per_modality(config.clusters, spec, "clusters")
        sizes = [modality.size for modality in spec.modalities]
        self.columns = list(spec.slices().values())
        self.input_norm = BatchNorm(spec.total_size)
        pools = [VLAD(size, k, light=config.light) for size, k in zip(sizes, clusters, strict=True)]
        self.pools = nn.ModuleList(pools)
        descriptor_size = sum(size * k for size, k in zip(sizes, clusters, strict=True))
        self.hidden = Hidden(descriptor_size, config.hidden, relu=config.relu, dropout=config.dropout)
        self.gating = ContextGating(config.hidden) if config.gating else None
        self.output_size = config.hidden
        reset_parameters(pools, self.hidden)

    def pool(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """The descriptors of all modalities side by side, float32 `[B, P]`."""
        return pool_modalities(self.input_norm, self.pools, self.columns, frames_BTD, counts_BT)

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and counts `[B, T]` (or None: each slot counts once) -> float32 `[B, H]`."""
        hidden_BH = self.hidden(self.pool(frames_BTD, counts_BT))
        return hidden_BH if self.gating is None else self.gating(hidden_BH)
