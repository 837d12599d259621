"""Multiply uint8 frames directly in the graph of a NetVLAD or NetFV, without converting them to floats.

A normalised frame is `(byte + OFFSET) * factor`. So `frame @ W = factor * (byte @ W + OFFSET * sum(W))`: one integer
matmul and a rank-1 correction. Only norms and squares still need floats.

- `frames @ weights`: a weight, with batch norm folded in, is rounded to 64 levels on either side of zero, per column.
  This happens once, when a file is loaded. The file holds the weight's own codes.
- `assign^T @ frames`: assignments to a cluster are rounded to 126 levels, up to the largest of a video. Many small ones
  would all become zero. So a pattern over frames and clusters decides which are rounded up, and their sums come out
  right. Bytes count from 127, which is -0.002 of their step instead of 0.
- A frame with hardly any signal has a huge factor. Beside it, all other assignments would become zero. So its bytes are
  multiplied with the largest integer that fits, and its factor is divided by that.

Both have 7 bits: without VNNI, sums of two products must fit 16 bits. Sums over frames have 32 bits, enough for videos
of 130,000 frames. docs/evidence/performance.md has the cost in GAP.

Shapes: B videos, T frames, D features, K clusters, N frames of all videos together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidfit.export.weight_formats import Int8Weight, dot, quantised
from vidfit.features.spec import FeatureSpec
from vidfit.models.preprocessing import OFFSET, inverse_norms

# Largest weight (times an unsigned byte) and largest assignment (times a signed one). 127 would fit as well.
_WEIGHT, _ASSIGNMENT = 64, 126
# The rounding pattern's steps from frame to frame and from cluster to cluster, modulo 1. Inverse powers of the plastic
# number make it even in both directions. Source: M. Roberts, "The unreasonable effectiveness of quasirandom
# sequences", 2018.
_FRAME_STEP, _CLUSTER_STEP = 0.7548776662466927, 0.5698402909980532


class StoredFrames:
    """The float32 frames `[B, T, D]` of `prepare_frames`, kept as bytes.

    Arguments:
        modalities: for each, its columns in a frame and its bytes, uint8 `[B, T, D_m]`.
        factor_BT1: inverse norms of the frames, 0 at padding.
    """

    def __init__(self, modalities: Sequence[tuple[slice, Tensor]], factor_BT1: Tensor) -> None:
        self.modalities, self.factor_BT1 = modalities, factor_BT1

    @classmethod
    def prepare(cls, frames: Mapping[str, Tensor], spec: FeatureSpec, mask_BT: Tensor | None) -> "StoredFrames":
        """As `prepare_frames`. All modalities must be bytes."""
        modalities = [(columns, frames[name]) for name, columns in spec.slices().items()]
        squares_BT1 = torch.stack([_squares(codes).sum(-1, keepdim=True) for _, codes in modalities]).sum(0)
        return cls(modalities, inverse_norms(squares_BT1.sqrt(), mask_BT))

    @property
    def shape(self) -> torch.Size:
        """`[B, T, D]`, or `[N, D]` once flattened."""
        return torch.Size((*self.factor_BT1.shape[:-1], sum(codes.shape[-1] for _, codes in self.modalities)))

    def __getitem__(self, index: Any) -> "StoredFrames":
        (codes,) = [codes for columns, codes in self.modalities if index == (..., columns)]
        return StoredFrames([(slice(None), codes)], self.factor_BT1)

    def flatten(self, start: int, end: int) -> "StoredFrames":
        """The frames of all videos one after another."""
        modalities = [(columns, codes.flatten(start, end)) for columns, codes in self.modalities]
        return StoredFrames(modalities, self.factor_BT1.flatten(start, end))

    def square(self) -> "_Squares":
        """Squares of one modality, for a product with assignments."""
        ((_, codes),) = self.modalities
        return _Squares(_squares(codes), self.factor_BT1.square())

    def values(self) -> Tensor:
        """The float32 values that `prepare_frames` returns."""
        return torch.cat([_values(codes) for _, codes in self.modalities], dim=-1) * self.factor_BT1

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], arguments: Sequence[Any], options: dict[str, Any] | None = None
    ) -> Any:
        match function.__name__, arguments:
            case "matmul", (Tensor() as assign_BKT, StoredFrames(modalities=[(_, codes)]) as frames):
                return _pooled(assign_BKT.transpose(1, 2), codes, frames.factor_BT1)
            case "addmm", (biases_K, StoredFrames(modalities=[(_, codes)]) as frames, Tensor() as weights_DK):
                return _logits(codes, frames.factor_BT1, weights_DK, biases_K)
            # Weights in other formats are expanded at each run; they are multiplied with float frames.
            case "addmm", (
                biases_K,
                StoredFrames(modalities=[(_, codes)]) as frames,
                object(stored=Int8Weight()) as weight,
            ):
                return _logits(codes, frames.factor_BT1, weight.values(), biases_K)  # type: ignore[attr-defined]
        expanded = [it.values() if isinstance(it, cls) else it for it in arguments]
        return function(*expanded, **(options or {}))


class _Sums:
    """`-products * step`, for a product with scales of features: ONNX Runtime does all three in one pass."""

    def __init__(self, products_BKD: Tensor, step_BK1: Tensor) -> None:
        self.products_BKD, self.step_BK1 = products_BKD, step_BK1

    def __mul__(self, scale_D: Tensor) -> Tensor:
        return self.products_BKD.float() * (-self.step_BK1 * scale_D)


class _Squares:
    """`values * factor`. Assignments are multiplied with the factor, because they are fewer."""

    def __init__(self, values_BTD: Tensor, factor_BT1: Tensor) -> None:
        self.values_BTD, self.factor_BT1 = values_BTD, factor_BT1

    def __rmatmul__(self, assign_BKT: Tensor) -> Tensor:
        return (assign_BKT * self.factor_BT1.transpose(1, 2)) @ self.values_BTD


def _values(codes: Tensor) -> Tensor:
    return codes.float() + OFFSET


def _squares(codes: Tensor) -> Tensor:
    values = _values(codes)
    return values * values


def _logits(codes_ND: Tensor, factor_N1: Tensor, weights_DK: Tensor, biases_K: Tensor) -> Tensor:
    """`frames @ weights + biases`, float32 `[N, K]`."""
    step_K = (weights_DK.abs().amax(0) / _WEIGHT).clamp_min(1e-30)
    levels_DK = (weights_DK / step_K).round()
    products_NK = dot(codes_ND, levels_DK.to(torch.int8)).float() * (factor_N1 * step_K)
    # Biases last: otherwise ONNX Runtime adds them before it scales by the frame's factor.
    return products_NK + factor_N1 * (levels_DK.sum(0) * step_K * OFFSET) + biases_K


def _pooled(assign_BTK: Tensor, codes_BTD: Tensor, factor_BT1: Tensor) -> _Sums:
    """`assign^T @ frames`, `[B, K, D]`."""
    highest_BT1, lowest_BT1 = (_values(it) for it in (codes_BTD.amax(-1, True), codes_BTD.amin(-1, True)))
    largest_BT1 = highest_BT1.maximum(-lowest_BT1)
    gain_BT1 = (127 / largest_BT1).floor().clamp_min(1)
    # The fast kernel wants signed bytes on the right. Negated values all fit.
    turned_BTD = quantised(_values(codes_BTD), -1 / gain_BT1, torch.int8)
    assign_BTK = assign_BTK * (factor_BT1 / gain_BT1)
    step_B1K = (assign_BTK.amax(1, keepdim=True) / _ASSIGNMENT).clamp_min(1e-30)
    frames, clusters = assign_BTK.shape[1:]
    phase_TK = torch.arange(frames)[:, None] * _FRAME_STEP + torch.arange(clusters) * _CLUSTER_STEP
    # Round down with a threshold by pattern: QuantizeLinear rounds to nearest, so subtract half a level.
    levels_BTK = quantised(assign_BTK / step_B1K + (phase_TK - phase_TK.floor() - 0.5), torch.ones(()), torch.uint8)
    return _Sums(dot(levels_BTK.transpose(1, 2), turned_BTD), step_B1K.transpose(1, 2))
