"""NeXtVLAD: NetVLAD on frames that are widened and split into groups, which share cluster centres.

Per modality, with `x' = x W + b` of E * D values, cut into G groups: `a_g = sigmoid(x' W_g + b_g)` says how much each
group of a frame counts, and `s_gk = softmax over k of BN(x' W_c)` to which clusters it belongs. Then
`y_jk = sum over t, g of a_tg s_tgk (x'_tg[j] - c_jk)`. Each cluster is scaled to L2 norm 1 and all values go through a
batch norm. Behind it: dropout, `h = BN(y W)`, and the gate `h * sigmoid(ReLU(BN(h W_1)) W_2)`.

A descriptor has E * D * K / G numbers, so G divides NetVLAD's hidden layer by G / E.

Three things differ from the original. Padding counts nowhere, while the original lets it into the statistics of the
batch norm over clusters. Frames have L2 norm 1, as for all families. The whitening of `rgb` is not undone, because
shards do not hold its eigenvalues.

Shapes: B videos, T frames, D features, E expansion, G groups, K clusters, J = E * D / G features of a group, H hidden.

Source: Lin, Xiao & Fan 2018 (arXiv 1811.05014), section 3, and the authors' code, which has the batch norm after the L2
norm.
"""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.errors import RecipeError
from vidfit.features.spec import FeatureSpec
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.layers import Hidden, inverse_norm
from vidfit.models.pooled import per_modality


class NeXtVLADConfig(BaseModel):
    """Options of NeXtVLAD. The authors took 8 groups and 128 clusters for rgb, half of both for audio, and H = 2048."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["nextvlad"] = "nextvlad"
    clusters: PositiveInt | dict[str, PositiveInt] = Field(description="K, for all modalities or one by name")
    groups: PositiveInt | dict[str, PositiveInt] = Field(
        default=8, description="G, parts of a wide frame that share centres; for all modalities or one by name"
    )
    expansion: PositiveInt = Field(default=2, description="E, how many times as wide frames become first")
    hidden: PositiveInt = Field(description="H, the size of the vector that the head reads")
    reduction: PositiveInt = Field(default=8, description="how many times narrower than H the gate's inner layer is")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="fraction of the descriptor to drop in training")


class NeXtVLADPool(nn.Module):
    """The descriptor of one modality, float32 `[B, J * K]`, feature by feature."""

    def __init__(self, size: int, clusters: int, groups: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * size
        self.groups = groups
        self.expansion = nn.Parameter(he_normal(size, wide))
        self.expansion_biases = nn.Parameter(torch.zeros(wide))
        self.attention = nn.Parameter(he_normal(wide, groups))
        self.attention_biases = nn.Parameter(torch.zeros(groups))
        self.assignment = nn.Parameter(he_normal(wide, groups * clusters))
        self.assignment_norm = BatchNorm(groups * clusters)
        self.centres = nn.Parameter(he_normal(wide // groups, clusters))
        self.output_size = wide // groups * clusters
        self.output_norm = BatchNorm(self.output_size)

    def expanded(self, frames: Tensor) -> Tensor:
        """`x'`, float32 `[..., E * D]`."""
        return frames @ self.expansion + self.expansion_biases

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        wide_BTW = self.expanded(frames_BTD)
        attention_BTG = torch.sigmoid(wide_BTW @ self.attention + self.attention_biases)
        if weights_BT is not None:
            attention_BTG = attention_BTG * weights_BT[:, :, None]
        logits_BTC = self.assignment_norm(wide_BTW @ self.assignment, weights_BT)
        assign_BTGK = logits_BTC.unflatten(2, (self.groups, -1)).softmax(dim=-1) * attention_BTG[..., None]
        # Every group of every frame is a point; the sums over points are products.
        assign_BPK, points_BPJ = assign_BTGK.flatten(1, 2), wide_BTW.unflatten(2, (self.groups, -1)).flatten(1, 2)
        mass_B1K = assign_BPK.sum(1, keepdim=True)
        residuals_BJK = points_BPJ.transpose(1, 2) @ assign_BPK - mass_B1K * self.centres
        return self.output_norm((residuals_BJK * inverse_norm(residuals_BJK, dim=1)).flatten(1))


class SqueezeGate(nn.Module):
    """`h * sigmoid(ReLU(BN(h W_1)) W_2)`: a context gate through a narrow layer.

    Source: Hu, Shen & Sun 2018 (squeeze and excitation), as Lin et al. 2018 use it.
    """

    def __init__(self, size: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Parameter(he_normal(size, size // reduction))
        self.norm = BatchNorm(size // reduction)
        self.excite = nn.Parameter(he_normal(size // reduction, size))

    def squeezed(self, hidden_BH: Tensor) -> Tensor:
        """`ReLU(BN(h W_1))`, float32 `[B, H / reduction]`."""
        return torch.relu(self.norm(hidden_BH @ self.squeeze))

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """float32 `[B, H]` -> `[B, H]`."""
        return hidden_BH * torch.sigmoid(self.squeezed(hidden_BH) @ self.excite)


class NeXtVLAD(nn.Module):
    """Frames to the head's input by NeXtVLAD.

    Raises:
        RecipeError: `clusters` or `groups` names other modalities than the spec, or groups do not divide a modality.
    """

    def __init__(self, config: NeXtVLADConfig, spec: FeatureSpec) -> None:
        super().__init__()
        clusters = per_modality(config.clusters, spec, "clusters")
        groups = per_modality(config.groups, spec, "groups")
        for modality, count in zip(spec.modalities, groups, strict=True):
            if config.expansion * modality.size % count:
                raise RecipeError(
                    f"groups: {config.expansion} * {modality.size} values of {modality.name} cannot be divided among "
                    f"{count} groups; give a divisor"
                )
        if config.hidden < config.reduction:
            raise RecipeError(f"reduction: {config.reduction} leaves nothing of {config.hidden} hidden units")
        self.columns = list(spec.slices().values())
        self.pools = nn.ModuleList(
            NeXtVLADPool(modality.size, k, g, config.expansion)
            for modality, k, g in zip(spec.modalities, clusters, groups, strict=True)
        )
        size = sum(pool.output_size for pool in self.pools)  # type: ignore[misc]
        self.hidden = Hidden(size, config.hidden, batch_norm=True, relu=False, dropout=config.dropout)
        self.hidden.reset_parameters(max(clusters))
        self.gate = SqueezeGate(config.hidden, config.reduction)
        self.output_size = config.hidden

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` (None: each frame counts once) -> float32 `[B, H]`."""
        parts = [pool(frames_BTD[..., own], weights_BT) for pool, own in zip(self.pools, self.columns, strict=True)]
        return self.gate(self.hidden(torch.cat(parts, dim=1)))


def he_normal(inputs: int, outputs: int) -> Tensor:
    """Initial weights, normal with variance 2 / inputs. Source: He et al. 2015, eq. 10."""
    return nn.init.normal_(torch.empty(inputs, outputs), std=(2 / inputs) ** 0.5)
