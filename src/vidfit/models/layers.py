"""What the pooling families share: assignment to clusters, norms, the hidden layer.

Weights are `[in, out]`, used as `x @ W`. Each family initialises them in its own `reset_parameters`.

Shapes: B videos, T frames, D features, K clusters, P descriptor, H hidden.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit.errors import RecipeError
from vidfit.features.spec import FeatureSpec
from vidfit.models.batch_norm import BatchNorm

Option = TypeVar("Option")


class Assignment(nn.Module):
    """How much each frame of a modality belongs to each cluster, before the softmax (or ReLU) over clusters.

    Arguments:
        size: D, features of the modality.
        clusters: K.
    """

    def __init__(self, size: int, clusters: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(size, clusters))
        self.norm = BatchNorm(clusters)

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None, scale_D: Tensor, shift_D: Tensor) -> Tensor:
        """`BN((frames * scale + shift) W)`, float32 `[B, T, K]`."""
        weights_DK = self.weights  # Read once: a quantised parameter is expanded at each reading.
        if self.training:
            logits_BTK = frames_BTD @ (scale_D[:, None] * weights_DK) + shift_D @ weights_DK
            return self.norm(logits_BTK, counts_BT)
        # Statistics that stand are a part of the weights: each pass over `[N, K]` saved is time, as memory is slow.
        scale_K, shift_K = self.norm.fold(frames_BTD, counts_BT)
        biases_K = shift_D @ weights_DK * scale_K + shift_K
        frames_ND = frames_BTD.flatten(0, 1)
        logits_NK = torch.addmm(biases_K, frames_ND, scale_D[:, None] * weights_DK * scale_K)
        return logits_NK.unflatten(0, frames_BTD.shape[:2])


def pool_modalities(
    norm: BatchNorm, pools: Iterable[nn.Module], columns: Iterable[slice], frames_BTD: Tensor, counts_BT: Tensor | None
) -> Tensor:
    """Every modality's descriptor of the normalised frames, side by side.

    Arguments:
        norm: of all modalities together.
        pools: one a modality; each takes its frames, the counts, and its part of the norm's scale and shift.
        columns: of each modality in a frame.
        frames_BTD: float32.
        counts_BT: how often each slot's frame counts, 0 where there is none; None where each counts once.

    Returns:
        float32 `[B, P]`.
    """
    scale_D, shift_D = norm.fold(frames_BTD, counts_BT)
    descriptors = [
        pool(frames_BTD[..., own], counts_BT, scale_D[own], shift_D[own])
        for pool, own in zip(pools, columns, strict=True)
    ]
    return torch.cat(descriptors, dim=1)


class Hidden(nn.Module):
    """The layer between a video's descriptor and the head: `x W + b`, or batch norm and ReLU6 in place of the bias.

    Source: Miech et al. 2017 (`netvlad_relu` and its sisters); the winners of 2018 trained without the ReLU.

    Arguments:
        input_size: P, length of the descriptor.
        size: H.
        relu: batch norm and ReLU6 instead of the bias.
        dropout: share of the descriptor that a training step leaves out.
    """

    def __init__(self, input_size: int, size: int, *, relu: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weights = nn.Parameter(torch.empty(input_size, size))
        self.norm = BatchNorm(size) if relu else None
        self.biases = None if relu else nn.Parameter(nn.init.normal_(torch.empty(size), std=0.01))

    def reset_parameters(self, clusters: int) -> None:
        """Normal weights: std 1/sqrt(clusters) as in the original; in front of a batch norm He et al. 2015, eq. 10.

        By clusters and not by inputs, because the descriptor's norm does not grow with its length.

        A batch norm undoes whatever scale the weights have, but Adam's steps have a size of their own: on AudioSet the
        original's large weights had moved too little after 760 steps.
        """
        std = clusters**-0.5 if self.norm is None else (2 / self.weights.shape[0]) ** 0.5
        nn.init.normal_(self.weights, std=std)

    def forward(self, descriptor_BP: Tensor) -> Tensor:
        """float32 `[B, P]` -> `[B, H]`."""
        hidden_BH = self.dropout(descriptor_BP) @ self.weights
        if self.norm is not None:
            hidden_BH = F.relu6(self.norm(hidden_BH))
        if self.biases is not None:
            hidden_BH = hidden_BH + self.biases
        return hidden_BH


def summed(values_BTK: Tensor, counts_BT: Tensor | None) -> Tensor:
    """Sum over the frames, each as often as it counts: float32 `[B, K]`.

    A product of two rows and no sum, because the order in which ONNX Runtime adds up a sum depends on whether there are
    more videos, and of a product of a single row on how many frames without a count follow.
    """
    if counts_BT is None:
        return values_BTK.sum(dim=1)
    # In float32, as a sum is under autocast.
    with torch.autocast(values_BTK.device.type, enabled=False):
        return (counts_BT[:, None].expand(-1, 2, -1) @ values_BTK.float())[:, 0]


def inverse_norm(values: Tensor, dim: int) -> Tensor:
    """1 / L2 norm along `dim`, which is kept with length 1; norms below 1e-6 count as 1e-6, as in the original."""
    return _inverse_root((values * values).sum(dim, keepdim=True))


def _inverse_root(squares: Tensor) -> Tensor:
    return torch.rsqrt(squares.clamp_min(1e-12))


def normalising(residuals_BKD: Tensor) -> Tensor:
    """What clusters are multiplied with for L2 norm 1 of each, and then of all together, float32 `[B, K, 1]`.

    The whole's norm follows from those of the clusters, so one pass over squares is enough.
    """
    squares_BK = (residuals_BKD * residuals_BKD).sum(2)
    cluster_factor_BK = _inverse_root(squares_BK)
    whole_B1 = (squares_BK * cluster_factor_BK.square()).sum(1, keepdim=True)
    return (cluster_factor_BK * _inverse_root(whole_B1))[:, :, None]


def flatten_scaled(values_BKD: Tensor, factor_BK1: Tensor) -> Tensor:
    """Clusters times their factors (or one of all, `[B, 1, 1]`), one after another: float32 `[B, K * D]`."""
    return (values_BKD * factor_BK1).flatten(1)


def per_modality(option: Option | dict[str, Option], spec: FeatureSpec, field: str) -> list[Option]:
    """An option of a recipe, given once for all modalities or by name, as a list in the spec's order.

    Raises:
        RecipeError: the names are not those of the modalities.
    """
    names = [modality.name for modality in spec.modalities]
    if not isinstance(option, dict):
        return [option] * len(names)
    if set(option) != set(names):
        raise RecipeError(f"{field}: names {sorted(option)}, but the shards hold {sorted(names)}; give each a value")
    return [option[name] for name in names]
