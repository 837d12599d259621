"""What the pooling families share: batch norm over real frames, assignment to clusters, norms, the hidden layer.

Batch norm has the original's constants: the running statistics move by 0.001 a step (decay 0.999), epsilon is 1e-3, it
normalises with the biased variance and keeps the unbiased one. A batch of a single value has no variance: it is
normalised with the running statistics and leaves them alone, where PyTorch would raise an error. Where several ranks
train together, the statistics are those of all their frames, as one process with the same batch would have them.

Weights are `[in, out]`, used as `x @ W`. Each family initialises them in its own `reset_parameters`.

Shapes: B videos, T frames, D features, K clusters, N real frames of all videos together, P descriptor, H hidden.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit import ranks
from vidfit.errors import RecipeError
from vidfit.features.spec import FeatureSpec

Option = TypeVar("Option")


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the last axis, with statistics of real frames only.

    Arguments:
        size: length of the last axis.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-3, momentum=1e-3)

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalises float32 `[..., size]`; `mask` (bool, `[...]`) is False where there is no frame.

        In training masked slots do not count and come out as zero. In inference the layer is one affine map for every
        slot, and what becomes of the masked ones is the caller's affair.
        """
        if not self.training:
            scale, shift = self._affine(self.running_mean, self.running_var)
            return input * scale + shift
        if mask is None:
            return self._normalise(input.flatten(0, -2)).view_as(input)
        output = torch.zeros_like(input)
        output[mask] = self._normalise(input[mask])
        return output

    def fold(self, frames: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer as `frames * scale + shift`.

        All that a family does with the normalised input is linear in it, so scale and shift can be applied to the
        `[D, K]` weights and sums instead: the normalised frames and, where the frames need none, their gradient, by far
        the largest tensors of a training step, are never made.

        Arguments:
            frames: float32 `[B, T, D]`.
            mask: bool `[B, T]` or None.

        Returns:
            scale and shift, float32 `[D]`.
        """
        if self.training:
            real_ND = frames.flatten(0, -2) if mask is None else frames[mask]
            if ranks.count() > 1:
                return self._affine(*self._common_statistics(real_ND))
            if len(real_ND) > 1 and frames.requires_grad:
                return self._affine(*self._statistics(real_ND))
            if len(real_ND) > 1:
                # One pass; `torch.var_mean` over the first axis takes 17 times as long on a CPU.
                return self._affine(
                    *torch.batch_norm_update_stats(real_ND, self.running_mean, self.running_var, self.momentum or 0.0)
                )
        return self._affine(self.running_mean, self.running_var)

    def _statistics(self, values_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance with their gradients; the running statistics move."""
        assert self.running_mean is not None
        assert self.running_var is not None
        mean_D = values_ND.mean(0)
        variance_D = (values_ND - mean_D).square().mean(0)
        unbiased_D = variance_D.detach() * len(values_ND) / (len(values_ND) - 1)
        self.running_mean.lerp_(mean_D.detach(), self.momentum or 0.0)
        self.running_var.lerp_(unbiased_D, self.momentum or 0.0)
        return mean_D, variance_D

    def _common_statistics(self, values_ND: Tensor) -> tuple[Tensor, Tensor]:
        """As `_statistics`, of the values of all ranks together; one rank may have none.

        A single value in all leaves the running statistics alone and is normalised with them. That is decided without
        looking at the number, which would wait for the device.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        own_D = values_ND.sum(0, dtype=self.running_mean.dtype)
        sums = ranks.added(torch.cat([own_D, own_D.new_tensor([len(values_ND)])]))
        count = sums[-1].detach()
        mean_D = sums[:-1] / count
        variance_D = ranks.added((values_ND - mean_D).square().sum(0)) / count
        several = count > 1
        unbiased_D = variance_D.detach() * count / (count - 1).clamp_min(1)
        moved = torch.where(several, self.momentum or 0.0, 0.0)
        mean_D = torch.where(several, mean_D, self.running_mean)
        variance_D = torch.where(several, variance_D, self.running_var)
        self.running_mean.lerp_(mean_D.detach(), moved)
        self.running_var.lerp_(torch.where(several, unbiased_D, self.running_var), moved)
        return mean_D, variance_D

    def _normalise(self, values_ND: Tensor) -> Tensor:
        if ranks.count() > 1:
            scale_D, shift_D = self._affine(*self._common_statistics(values_ND))
            return values_ND * scale_D + shift_D
        return F.batch_norm(
            values_ND,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=len(values_ND) > 1,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )

    def _affine(self, mean: Tensor | None, variance: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mean is not None
        assert variance is not None
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return scale, self.bias - mean * scale


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

    def forward(self, frames_BTD: Tensor, mask_BT: Tensor | None, scale_D: Tensor, shift_D: Tensor) -> Tensor:
        """`BN((frames * scale + shift) W)`, float32 `[B, T, K]`."""
        weights_DK = self.weights  # Read once: a quantised parameter is expanded at each reading.
        logits_BTK = frames_BTD @ (scale_D[:, None] * weights_DK) + shift_D @ weights_DK
        return self.norm(logits_BTK, mask_BT)


def pool_modalities(
    norm: BatchNorm, pools: Iterable[nn.Module], columns: Iterable[slice], frames_BTD: Tensor, mask_BT: Tensor | None
) -> Tensor:
    """Every modality's descriptor of the normalised frames, side by side.

    Arguments:
        norm: of all modalities together.
        pools: one a modality; each takes its frames, the mask, and its part of the norm's scale and shift.
        columns: of each modality in a frame.
        frames_BTD: float32.
        mask_BT: bool, or None where every slot holds a frame.

    Returns:
        float32 `[B, P]`.
    """
    scale_D, shift_D = norm.fold(frames_BTD, mask_BT)
    descriptors = [
        pool(frames_BTD[..., own], mask_BT, scale_D[own], shift_D[own])
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


def inverse_norm(values: Tensor, dim: int) -> Tensor:
    """1 / L2 norm along `dim`, which is kept with length 1; norms below 1e-6 count as 1e-6, as in the original."""
    return torch.rsqrt((values * values).sum(dim, keepdim=True).clamp_min(1e-12))


def flatten_normalised(residuals_BDK: Tensor) -> Tensor:
    """L2 norm 1 for each cluster, then for the whole, flattened feature-major: float32 `[B, D * K]`.

    The whole's norm follows from those of the clusters: all is one pass over the residuals and one over their squares.
    """
    squares_B1K = (residuals_BDK * residuals_BDK).sum(1, keepdim=True)
    cluster_factor_B1K = torch.rsqrt(squares_B1K.clamp_min(1e-12))
    whole_B11 = (squares_B1K * cluster_factor_B1K.square()).sum(2, keepdim=True)
    return (residuals_BDK * (cluster_factor_B1K * torch.rsqrt(whole_B11.clamp_min(1e-12)))).flatten(1)


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
