"""Frames that stay bytes in the graph of a NetVLAD or NetFV: what multiplies them multiplies the bytes.

A normalised frame is `(byte + OFFSET) * factor`, so a product with frames is one with bytes and a correction of rank
one. Floats are made of the bytes only for what is no such product: norms and squares.

- `frames @ weights`: a weight, batch norms included, is rounded to 64 levels on either side of zero, scaled by column.
  That is done once, when a file is loaded; the file holds the weight's own codes.
- `assign^T @ frames`: the assignments to a cluster are rounded to 126 levels up to the greatest of a video. The many
  small ones of a softmax would all become zero, however much they are together: so each is rounded up as often as its
  fraction asks for, by a pattern over frames and clusters, and sums come out right. Bytes count from 127, which stands
  for -0.002 of their step. Beside the factor of a frame of hardly any signal all others would become zero, too: so the
  features of a frame are multiplied with a whole number as great as bytes allow, and its factor is divided by it.

Both have 7 bits because without VNNI sums of two products must fit 16 bits; the sums themselves have 32, which
is enough for videos of 130,000 frames. What it costs in GAP is measured in docs/evidence/performance.md.

Shapes: B videos, T frames, D features, K clusters, N frames of all videos together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vidfit.export.weight_formats import Bytes, dot, quantised
from vidfit.features.spec import FeatureSpec
from vidfit.models.frames import OFFSET, inverse_norms

# Greatest of a weight beside an unsigned byte, and of an assignment beside a signed one; 127 would fit as well.
_WEIGHT, _ASSIGNMENT = 64, 126
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
            case "addmm", (biases_K, StoredFrames(modalities=[(_, codes)]) as frames, Tensor() as weights_DK):
                return _logits(codes, frames.factor_BT1, weights_DK, biases_K)
            # Weights of other forms, which are made floats at each run, are multiplied with floats.
            case "addmm", (biases_K, StoredFrames(modalities=[(_, codes)]) as frames, object(form=Bytes()) as weight):
                return _logits(codes, frames.factor_BT1, weight.values(), biases_K)  # type: ignore[attr-defined]
        expanded = [it.values() if isinstance(it, cls) else it for it in arguments]
        return function(*expanded, **(options or {}))


class _Sums:
    """`-products * step`, to be multiplied with a scale of features: ONNX Runtime does all three at once."""

    def __init__(self, products_BKD: Tensor, step_BK1: Tensor) -> None:
        self.products_BKD, self.step_BK1 = products_BKD, step_BK1

    def __mul__(self, scale_D: Tensor) -> Tensor:
        return self.products_BKD.float() * (-self.step_BK1 * scale_D)


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
    products_NK = dot(codes_ND, levels_DK.to(torch.int8)).float() * (factor_N1 * step_K)
    # Biases last: ONNX Runtime would add them to the product before a frame's factor, and scale them with it.
    return products_NK + factor_N1 * (levels_DK.sum(0) * step_K * OFFSET) + biases_K


def _pooled(assign_BTK: Tensor, codes_BTD: Tensor, factor_BT1: Tensor) -> _Sums:
    """`assign^T @ frames`, `[B, K, D]`."""
    highest_BT1, lowest_BT1 = (_values(it) for it in (codes_BTD.amax(-1, True), codes_BTD.amin(-1, True)))
    largest_BT1 = highest_BT1.maximum(-lowest_BT1)
    gain_BT1 = (127 / largest_BT1).floor().clamp_min(1)
    # A product's quick kernel has signed bytes on the right; those turned to the other sign are all within their range.
    turned_BTD = quantised(_values(codes_BTD), -1 / gain_BT1, torch.int8)
    assign_BTK = assign_BTK * (factor_BT1 / gain_BT1)
    step_B1K = (assign_BTK.amax(1, keepdim=True) / _ASSIGNMENT).clamp_min(1e-30)
    frames, clusters = assign_BTK.shape[1:]
    phase_TK = torch.arange(frames)[:, None] * _FRAME_STEP + torch.arange(clusters) * _CLUSTER_STEP
    # Rounding to the nearest is rounding down, half a level higher.
    levels_BTK = quantised(assign_BTK / step_B1K + (phase_TK - phase_TK.floor() - 0.5), torch.ones(()), torch.uint8)
    return _Sums(dot(levels_BTK.transpose(1, 2), turned_BTD), step_B1K.transpose(1, 2))
