"""Layers and norms that families share.

Weights are `[in, out]`, used as `x @ W`.

Shapes: B videos, T frames, D features, K clusters, P descriptor, H hidden.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfit.kernels.dropout import Dropout
from vidfit.kernels.pooling import NormalisedFrames
from vidfit.models.batch_norm import BatchNorm

# Sums of squares below it count as it, as in the original.
SMALLEST_SQUARE = 1e-12


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

    def reset_parameters(self) -> None:
        """Normal weights, as in the original."""
        nn.init.normal_(self.weights, std=len(self.weights) ** -0.5)

    def forward(self, frames: NormalisedFrames) -> Tensor:
        """`BN(x W)`, float32 `[B, T, K]`."""
        weights_DK = self.weights  # Read once: a quantised parameter is expanded at each reading.
        if self.training:
            return self.norm(frames.times(weights_DK), frames.weights_BT)
        # In eval mode, fold batch norm into the weights: each pass over `[B, T, K]` costs memory bandwidth.
        return frames.affine(weights_DK, *self.norm.folded())


class Hidden(nn.Module):
    """The layer between a video's descriptor and the head: `x W + b`, `BN(x W)`, or `ReLU6(BN(x W))`.

    Source: Miech et al. 2017 (`netvlad_relu` and its sisters); the winners of 2018 trained without the ReLU.

    Arguments:
        input_size: P, length of the descriptor.
        size: H.
        batch_norm: batch norm instead of the bias.
        relu: ReLU6 after the batch norm.
        dropout: fraction of the descriptor that a training step drops.
    """

    def __init__(self, input_size: int, size: int, *, batch_norm: bool, relu: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.weights = nn.Parameter(torch.empty(input_size, size))
        self.norm = BatchNorm(size) if batch_norm else None
        self.relu = relu
        self.biases = None if batch_norm else nn.Parameter(nn.init.normal_(torch.empty(size), std=0.01))

    def reset_parameters(self, clusters: int) -> None:
        """Normal weights: std 1/sqrt(clusters) as in the original; before a batch norm He et al. 2015, eq. 10.

        The original divides by clusters, not by inputs, because the descriptor's norm does not grow with its length.
        A batch norm cancels any scale of the weights. But Adam's steps have a scale of their own: on AudioSet, the
        original's large weights had moved too little after 760 steps.
        """
        std = clusters**-0.5 if self.norm is None else (2 / self.weights.shape[0]) ** 0.5
        nn.init.normal_(self.weights, std=std)

    def forward(self, descriptor_BP: Tensor) -> Tensor:
        """float32 `[B, P]` -> `[B, H]`."""
        hidden_BH = self.dropout(descriptor_BP) @ self.weights
        if self.norm is not None:
            hidden_BH = self.norm(hidden_BH)
        if self.relu:
            hidden_BH = F.relu6(hidden_BH)
        if self.biases is not None:
            hidden_BH = hidden_BH + self.biases
        return hidden_BH


def inverse_norm(values: Tensor, dim: int) -> Tensor:
    """1 / L2 norm along `dim`, kept with length 1; norms below 1e-6 count as 1e-6, as in the original."""
    return _inverse_root((values * values).sum(dim, keepdim=True))


def intra_norm(residuals_BKD: Tensor) -> Tensor:
    """The factor per cluster that gives each cluster L2 norm 1, and then all together: float32 `[B, K, 1]`.

    The norm of the whole follows from those of the clusters, so one pass over squares is enough.

    Source: Arandjelovic & Zisserman 2013, "All about VLAD", section 3.2 (intra-normalisation).
    """
    squares_BK = (residuals_BKD * residuals_BKD).sum(2)
    cluster_factor_BK = _inverse_root(squares_BK)
    whole_B1 = (squares_BK * cluster_factor_BK.square()).sum(1, keepdim=True)
    return (cluster_factor_BK * _inverse_root(whole_B1))[:, :, None]


def flatten_scaled(values_BKD: Tensor, factor_BK1: Tensor) -> Tensor:
    """Clusters times their factors (or times one factor for all, `[B, 1, 1]`), side by side: float32 `[B, K * D]`."""
    return (values_BKD * factor_BK1).flatten(1)


def _inverse_root(squares: Tensor) -> Tensor:
    return torch.rsqrt(squares.clamp_min(SMALLEST_SQUARE))
