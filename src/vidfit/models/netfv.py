"""NetFV: a Fisher vector a modality, mean and variance of the frames' deviations from clusters learnt end to end.

Like NetVLAD with a second order: the descriptor is twice as long (2 K x D a modality). The original's normalisation is
kept: the first order to norm 1 by cluster, then as a whole; the second order as a whole only. Squares of `frames *
scale + shift` are expanded, so normalised frames are never made; only the frames' own squares are.

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
    inverse_norm,
    normalising,
    per_modality,
    pool_modalities,
    summed,
)


class NetFVConfig(BaseModel):
    """Sizes and options of NetFV.

    Attributes:
        clusters: K, one number for all modalities or one by name (the winners: 96 for rgb, 48 for audio).
        hidden: H, what the head sees.
        relu: batch norm and ReLU6 after the hidden layer instead of a bias.
        gating: context gating after the hidden layer.
        dropout: share of the descriptor that a training step leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["netfv"] = "netfv"
    clusters: PositiveInt | dict[str, PositiveInt]
    hidden: PositiveInt
    relu: bool = False
    gating: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FisherVector(nn.Module):
    """The descriptor of one modality.

    Source: Perronnin & Dance 2007; Miech et al. 2017, section 4.1.

    Arguments:
        size: D, features of the modality.
        clusters: K.
    """

    def __init__(self, size: int, clusters: int) -> None:
        super().__init__()
        self.assignment = Assignment(size, clusters)
        self.centres = nn.Parameter(torch.empty(size, clusters))
        self.deviations = nn.Parameter(torch.empty(size, clusters))
        # Replaced in a packed graph (`export/descriptor.py`).
        self.flatten_scaled: Callable[[Tensor, Tensor], Any] = flatten_scaled

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None, scale_D: Tensor, shift_D: Tensor) -> Tensor:
        """Pools `frames * scale + shift` to float32 `[B, 2 K * D]`: first order, then second."""
        assign_BTK = self.assignment(frames_BTD, counts_BT, scale_D, shift_D).softmax(dim=-1)
        mass_BK1 = summed(assign_BTK, counts_BT)[:, :, None]
        if counts_BT is not None:
            assign_BTK = assign_BTK * counts_BT[:, :, None]
        assign_BKT = assign_BTK.transpose(1, 2)
        sums_BKD = (assign_BKT @ frames_BTD) * scale_D
        squares_BKD = (assign_BKT @ frames_BTD.square()) * scale_D.square()
        # With z = frames * scale and o = shift - centre, the deviation is z + o.
        offset_KD = shift_D - self.centres.T
        first_BKD = sums_BKD + mass_BK1 * offset_KD
        second_BKD = squares_BKD + offset_KD * (sums_BKD + first_BKD)
        variance_KD = self.deviations.T.square() + 1e-6
        first_BKD = first_BKD / variance_KD
        second_BKD = second_BKD / variance_KD.square() - mass_BK1
        first_BP = self.flatten_scaled(first_BKD, normalising(first_BKD))
        # The original normalises the second order twice; that is once, as a norm of 1 is left alone.
        second_BP = self.flatten_scaled(second_BKD, inverse_norm(second_BKD.flatten(1), dim=1)[:, :, None])
        return torch.cat([first_BP, second_BP], dim=1)


def reset_parameters(pools: Sequence[FisherVector], hidden: Hidden) -> None:
    """Initial weights of the family, all normal, as in the original. Batch norms start as the identity."""
    for pool in pools:
        std = pool.assignment.weights.shape[0] ** -0.5
        nn.init.normal_(pool.assignment.weights, std=std)
        nn.init.normal_(pool.centres, std=std)
        nn.init.normal_(pool.deviations, mean=1.0, std=std)
    clusters = max(pool.assignment.weights.shape[1] for pool in pools)
    hidden.reset_parameters(clusters)


class NetFV(nn.Module):
    """Frames to the head's input by NetFV.

    Arguments:
        config: sizes and options.
        spec: modalities, in the order in which a frame holds them.

    Raises:
        RecipeError: `clusters` names other modalities than the spec.
    """

    def __init__(self, config: NetFVConfig, spec: FeatureSpec) -> None:
        super().__init__()
        clusters = per_modality(config.clusters, spec, "clusters")
        sizes = [modality.size for modality in spec.modalities]
        self.columns = list(spec.slices().values())
        self.input_norm = BatchNorm(spec.total_size)
        pools = [FisherVector(size, k) for size, k in zip(sizes, clusters, strict=True)]
        self.pools = nn.ModuleList(pools)
        descriptor_size = sum(2 * size * k for size, k in zip(sizes, clusters, strict=True))
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
