"""Deep bag of frames: how much of a video falls into each of many clusters, in three forms.

- `max`: ReLU6 activations, the largest over the frames (the starter code's form);
- `soft`: softmax over clusters, summed over the frames, to norm 1;
- `gated`: the soft sums times a gate computed from the largest assignments over the frames, to norm 1.

The descriptor is short (K a modality), so K can be in the thousands; that makes `[B, T, K]` the largest tensor. A gate
costs 2 D x K weights, which pays for the modality with the most evidence: the winners gate rgb and leave audio soft.

Shapes: B videos, T frames, D features, K clusters, P descriptor, H hidden.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.models.batch_norm import BatchNorm
from vidfit.models.heads import ContextGating
from vidfit.models.layers import Assignment, Hidden, inverse_norm, per_modality, pool_modalities, summed

Form = Literal["max", "soft", "gated"]


class DBoFConfig(BaseModel):
    """Sizes and options of deep bag of frames.

    Attributes:
        clusters: K, one number for all modalities or one by name (the winners: 4096 for rgb, 512 for audio).
        hidden: H, what the head sees.
        form: one for all modalities or one by name (the winners: gated for rgb, soft for audio).
        relu: batch norm and ReLU6 after the hidden layer instead of a bias (the starter code's form has it).
        gating: context gating after the hidden layer.
        dropout: share of the descriptor that a training step leaves out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["dbof"] = "dbof"
    clusters: PositiveInt | dict[str, PositiveInt]
    hidden: PositiveInt
    form: Form | dict[str, Form] = "gated"
    relu: bool = False
    gating: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ClusterGate(nn.Module):
    """`sigmoid(BN(max_K R W))`: by how much to damp each cluster, from the largest assignments over the frames."""

    def __init__(self, size: int, clusters: int) -> None:
        super().__init__()
        self.reduction = nn.Parameter(torch.empty(clusters, size))
        self.weights = nn.Parameter(torch.empty(size, clusters))
        self.norm = BatchNorm(clusters)

    def forward(self, largest_BK: Tensor) -> Tensor:
        normalised_BK = largest_BK * inverse_norm(largest_BK, dim=1)
        return torch.sigmoid(self.norm(normalised_BK @ self.reduction @ self.weights))


class Bag(nn.Module):
    """The descriptor of one modality.

    Source: Abu-El-Haija et al. 2016, section 3.2 (`max`); Miech et al. 2017 (`soft`); Skalic & Austin 2018 (`gated`).

    Arguments:
        size: D, features of the modality.
        clusters: K.
        form: see the module's docstring.
    """

    def __init__(self, size: int, clusters: int, form: Form) -> None:
        super().__init__()
        self.form = form
        self.assignment = Assignment(size, clusters)
        self.gate = ClusterGate(size, clusters) if form == "gated" else None

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None, scale_D: Tensor, shift_D: Tensor) -> Tensor:
        """Pools `frames * scale + shift` to float32 `[B, K]`."""
        logits_BTK = self.assignment(frames_BTD, counts_BT, scale_D, shift_D)
        assign_BTK = F.relu6(logits_BTK) if self.form == "max" else logits_BTK.softmax(dim=-1)
        if self.form == "max":
            return largest(assign_BTK, counts_BT)
        bag_BK = summed(assign_BTK, counts_BT)
        if self.gate is not None:
            bag_BK = bag_BK * self.gate(largest(assign_BTK, counts_BT))
        return bag_BK * inverse_norm(bag_BK, dim=1)


def largest(assign_BTK: Tensor, counts_BT: Tensor | None) -> Tensor:
    """The largest over the real frames of what is never negative, float32 `[B, K]`."""
    if counts_BT is None:
        return assign_BTK.amax(dim=1)
    if not torch.compiler.is_exporting():
        return (assign_BTK * (counts_BT > 0)[:, :, None]).amax(dim=1)
    # ONNX Runtime takes seven times as long where there is nothing before the axis that it reduces, as with one video.
    # So there are two halves, and empty slots, or one that is one too many, repeat the last frame.
    videos, frames, clusters = assign_BTK.shape
    slots_T = torch.arange(2 * ((frames + 1) // 2))
    last_B1 = counts_BT.sum(1, keepdim=True).long() - 1
    rows = torch.arange(videos)[:, None] * frames + slots_T.minimum(last_B1)
    halves_BTK = assign_BTK.flatten(0, 1).index_select(0, rows.flatten()).view(2 * videos, -1, clusters)
    return halves_BTK.amax(1).view(videos, 2, clusters).amax(1)


def reset_parameters(pools: Sequence[Bag], hidden: Hidden) -> None:
    """Initial weights of the family, all normal, as in the original. Batch norms start as the identity."""
    for pool in pools:
        std = pool.assignment.weights.shape[0] ** -0.5
        nn.init.normal_(pool.assignment.weights, std=std)
        if pool.gate is not None:
            nn.init.normal_(pool.gate.reduction, std=std)
            nn.init.normal_(pool.gate.weights, std=std)
    clusters = max(pool.assignment.weights.shape[1] for pool in pools)
    hidden.reset_parameters(clusters)


class DBoF(nn.Module):
    """Frames to the head's input by deep bag of frames.

    Arguments:
        config: sizes and options.
        spec: modalities, in the order in which a frame holds them.

    Raises:
        RecipeError: `clusters` or `form` names other modalities than the spec.
    """

    def __init__(self, config: DBoFConfig, spec: FeatureSpec) -> None:
        super().__init__()
        clusters = per_modality(config.clusters, spec, "clusters")
        forms = per_modality(config.form, spec, "form")
        self.columns = list(spec.slices().values())
        self.input_norm = BatchNorm(spec.total_size)
        pools = [
            Bag(modality.size, k, form) for modality, k, form in zip(spec.modalities, clusters, forms, strict=True)
        ]
        self.pools = nn.ModuleList(pools)
        self.hidden = Hidden(sum(clusters), config.hidden, relu=config.relu, dropout=config.dropout)
        self.gating = ContextGating(config.hidden) if config.gating else None
        self.output_size = config.hidden
        reset_parameters(pools, self.hidden)

    def pool(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """The bags of all modalities side by side, float32 `[B, P]`."""
        return pool_modalities(self.input_norm, self.pools, self.columns, frames_BTD, counts_BT)

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and counts `[B, T]` (or None: each slot counts once) -> float32 `[B, H]`."""
        hidden_BH = self.hidden(self.pool(frames_BTD, counts_BT))
        return hidden_BH if self.gating is None else self.gating(hidden_BH)
