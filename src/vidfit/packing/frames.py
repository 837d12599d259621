"""Frames that stay bytes in the graph of a NetVLAD or NetFV: what multiplies them multiplies the bytes.

A normalised frame is `(byte + OFFSET) * factor`, so a product with frames is one with bytes and a correction of rank
one. Floats are made of the bytes only for what is no such product: norms and squares.

- `frames @ weights`: a weight, batch norms included, is rounded to 64 levels on either side of zero, scaled by column.
  That is done once, when a file is loaded; the file holds the weight's own codes.
- `assign^T @ frames`: the assignments to a cluster are rounded to 126 levels up to the greatest of a video. The many
  small ones of a softmax would all become zero, however much they are together: so each is rounded up as often as its
  fraction asks for, by a pattern over frames and clusters, and sums come out right. Beside the factor of a frame of no
  signal (all bytes 127, as zeros are stored) those of all others would become zero, too: a frame of a small norm counts
  by the mean of its features, which is exact where all are equal.

Both have 7 bits because without VNNI sums of two products must fit 16 bits; the sums themselves have 32, which
is enough for videos of 130,000 frames. What it costs in GAP is measured in docs/performance.md.

Shapes: B videos, T frames, D features, K clusters, N frames of all videos together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidfit.features.spec import FeatureSpec
from vidfit.models.frames import OFFSET, inverse_norms
from vidfit.packing.forms import OPSET, Bytes, dot

# Greatest of a weight beside an unsigned byte, and of an assignment beside a signed one.
_WEIGHT, _ASSIGNMENT = 64, 126
# How many times as great as the least factor of a video one may be.
_LIMIT = 16
# Steps from frame to frame and from cluster to cluster, modulo 1, of a pattern that is even in both directions: inverse
# powers of the plastic number. Source: M. Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018.
_FRAME_STEP, _CLUSTER_STEP = 0.7548776662466927, 0.5698402909980532


class StoredFrames:
    """What stands for the float32 `[B, T, D]` of `prepare_frames`.

    Arguments:
        modalities: columns of each in a frame, and its bytes, uint8 `[B, T, D_m]`.
        factor_BT1: inverse norms of the frames, 0 in slots without a frame.
    """

    def __init__(self, modalities: Sequence[tuple[slice, Tensor]], factor_BT1: Tensor) -> None:
        self.modalities, self.factor_BT1 = modalities, factor_BT1

    @classmethod
    def prepare(cls, frames: Mapping[str, Tensor], spec: FeatureSpec, mask_BT: Tensor | None) -> "StoredFrames":
        """As `prepare_frames`, of modalities that all are bytes."""
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
        """Of one modality, to be multiplied with assignments."""
        ((_, codes),) = self.modalities
        return _Squares(_squares(codes), self.factor_BT1.square())

    def values(self) -> Tensor:
        """Float32, as `prepare_frames` has them."""
        return torch.cat([_values(codes) for _, codes in self.modalities], dim=-1) * self.factor_BT1

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], arguments: Sequence[Any], options: dict[str, Any] | None = None
    ) -> Any:
        match function.__name__, arguments:
            case "matmul", (Tensor() as assign_BKT, StoredFrames(modalities=[(_, codes)]) as frames):
                return _pooled(assign_BKT.transpose(1, 2), codes, frames.factor_BT1)
            # Any other weight, as one that was too small to be quantised, is multiplied with floats.
            case "addmm", (biases_K, StoredFrames(modalities=[(_, codes)]) as frames, object(form=Bytes()) as weight):
                weights_DK: Tensor = weight.values()  # type: ignore[attr-defined]
                return _logits(codes, frames.factor_BT1, weights_DK, biases_K)
        expanded = [it.values() if isinstance(it, cls) else it for it in arguments]
        return function(*expanded, **(options or {}))


class _Squares:
    """`values * factor`; assignments take the factor, as there are fewer of them."""

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
    products_NK = _scaled(dot(codes_ND, levels_DK.to(torch.int8)), factor_N1[:, 0])
    left_N2 = torch.cat([factor_N1, torch.ones_like(factor_N1)], dim=1)
    return products_NK * step_K + left_N2 @ torch.stack([levels_DK.sum(0) * step_K * OFFSET, biases_K])


def _pooled(assign_BTK: Tensor, codes_BTD: Tensor, factor_BT1: Tensor) -> Tensor:
    """`assign^T @ frames`, float32 `[B, K, D]`."""
    least_B11 = factor_BT1.masked_fill(factor_BT1 == 0, torch.inf).amin(1, keepdim=True)
    kept_BT1 = factor_BT1.masked_fill(factor_BT1 > _LIMIT * least_B11, 0)
    size = codes_BTD.shape[-1]
    mean_BT1 = dot(codes_BTD, torch.ones(size, 1, dtype=torch.int8)).float() / size + OFFSET
    small_B1K = ((factor_BT1 - kept_BT1) * mean_BT1).transpose(1, 2) @ assign_BTK
    assign_BTK = assign_BTK * kept_BT1
    step_B1K = (assign_BTK.amax(1, keepdim=True) / _ASSIGNMENT).clamp_min(1e-30)
    frames, clusters = assign_BTK.shape[1:]
    # Begins at 0.5: at 0 the greatest assignment, 126 but for float rounding, could fall to 125.
    phase_TK = 0.5 + torch.arange(frames)[:, None] * _FRAME_STEP + torch.arange(clusters) * _CLUSTER_STEP
    levels_BTK = (assign_BTK / step_B1K + (phase_TK - phase_TK.floor())).floor()
    # Bytes have a quick kernel where those on the right are signed.
    signed_BTD = torch.bitwise_xor(codes_BTD, torch.tensor(128, dtype=torch.uint8)).to(torch.int8)
    products_BKD = dot(levels_BTK.to(torch.uint8).transpose(1, 2), signed_BTD)
    sums_BKD = _scaled(products_BKD.flatten(0, 1), step_B1K.flatten()).view(products_BKD.shape)
    rest_B1K = levels_BTK.sum(1, keepdim=True) * step_B1K * (OFFSET + 128) + small_B1K
    return sums_BKD + rest_B1K.transpose(1, 2)


def _scaled(products_RC: Tensor, scale_R: Tensor) -> Tensor:
    """int32 to float32, each row by its scale, in one pass."""
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        [products_RC, scale_R],
        {"axis": 0},
        dtype=torch.float32,
        shape=products_RC.shape,
        version=OPSET,
    )
