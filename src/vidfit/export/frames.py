"""Frames as a family multiplies them in a graph: as floats, or as the bytes in which they are stored.

`models/preprocessing.py` has the formulas of normalised frames, `kernels/pooling.py` those of the sums.

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

Shapes: B videos, T frames, D features, K clusters, N = B * T.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from vidfit.export.graph_writer import Operand, Value
from vidfit.export.slots import Slots
from vidfit.export.weight_formats import FloatWeight, Int8Weight, WeightFormat, dot, quantized
from vidfit.features.spec import FeatureSpec
from vidfit.models.preprocessing import OFFSET, SMALLEST_NORM

# Largest weight (times an unsigned byte) and largest assignment (times a signed one). 127 would fit as well.
_WEIGHT, _ASSIGNMENT = 64, 126
# The rounding pattern's steps from frame to frame and from cluster to cluster, modulo 1. Inverse powers of the plastic
# number make it even in both directions. Source: M. Roberts, "The unreasonable effectiveness of quasirandom
# sequences", 2018.
_FRAME_STEP, _CLUSTER_STEP = 0.7548776662466927, 0.5698402909980532


class Frames(ABC):
    """The frames of a batch, `[B, T, D]`.

    Attributes:
        slots: which of them are real.
    """

    slots: Slots

    @abstractmethod
    def columns(self, own: slice) -> "Frames":
        """The frames of one modality."""

    @abstractmethod
    def values(self) -> Value:
        """float32 `[B, T, D]`."""

    @abstractmethod
    def times(
        self,
        weight: WeightFormat,
        column_D: Operand | None = None,
        factor_K: Operand | None = None,
        biases_K: Operand | None = None,
    ) -> Value:
        """`(frames * column) @ W * factor + biases`, float32 `[B, T, K]`."""

    @abstractmethod
    def sums(self, assign_BTK: Value, clusters: int, scale_D: Operand) -> Value:
        """`assign^T @ frames * scale`, float32 `[B, K, D]`, K = `clusters`. Assignments are 0 at padding."""

    @abstractmethod
    def square_sums(self, assign_BTK: Value, scale_D: Operand) -> Value:
        """`assign^T @ frames^2 * scale`, float32 `[B, K, D]`."""


class FloatFrames(Frames):
    """Frames as float32 `[B, T, D]`."""

    def __init__(self, frames_BTD: Value, size: int, slots: Slots) -> None:
        self.frames_BTD, self.size, self.slots = frames_BTD, size, slots

    def columns(self, own: slice) -> "FloatFrames":
        size = own.stop - own.start
        frames_BTD = self.frames_BTD if size == self.size else self.frames_BTD.part(2, own.start, own.stop)
        return FloatFrames(frames_BTD, size, self.slots)

    def values(self) -> Value:
        return self.frames_BTD

    def times(
        self,
        weight: WeightFormat,
        column_D: Operand | None = None,
        factor_K: Operand | None = None,
        biases_K: Operand | None = None,
    ) -> Value:
        frames_ND = self.frames_BTD.reshape(-1, self.size)
        return self.slots.unflatten(weight.multiply_frames(frames_ND, column_D, factor_K, biases_K))

    def sums(self, assign_BTK: Value, clusters: int, scale_D: Operand) -> Value:
        return assign_BTK.permute(0, 2, 1) @ self.frames_BTD * scale_D

    def square_sums(self, assign_BTK: Value, scale_D: Operand) -> Value:
        return assign_BTK.permute(0, 2, 1) @ (self.frames_BTD * self.frames_BTD) * scale_D


def float_frames(stored: Mapping[str, Value], spec: FeatureSpec, slots: Slots) -> FloatFrames:
    """Normalised frames of all modalities side by side, as `prepare_frames`."""
    frames_BTD = slots.graph.concat([stored[modality.name] for modality in spec.modalities], axis=2)
    if spec.modalities[0].dtype == "uint8":
        frames_BTD = _values(frames_BTD)
    return FloatFrames(frames_BTD * _inverse_norms(frames_BTD.norm(2), slots), spec.total_size, slots)


class ByteFrames(Frames):
    """Frames as the uint8 `[B, T, D_m]` of each modality.

    Arguments:
        modalities: for each, its columns in a frame and its bytes.
        factor_BT1: inverse norms of the frames, 0 at padding.
        slots: which frames are real.
    """

    def __init__(self, modalities: list[tuple[slice, Value]], factor_BT1: Value, slots: Slots) -> None:
        self.modalities, self.factor_BT1, self.slots = modalities, factor_BT1, slots

    def columns(self, own: slice) -> "ByteFrames":
        return ByteFrames([(at, codes) for at, codes in self.modalities if at == own], self.factor_BT1, self.slots)

    def values(self) -> Value:
        return self.slots.graph.concat([_values(codes) for _, codes in self.modalities], axis=2) * self.factor_BT1

    def times(
        self,
        weight: WeightFormat,
        column_D: Operand | None = None,
        factor_K: Operand | None = None,
        biases_K: Operand | None = None,
    ) -> Value:
        ((own, codes_BTD),) = self.modalities
        size = own.stop - own.start
        if not isinstance(weight, FloatWeight | Int8Weight):
            # Weights in other formats are expanded at each run; they are multiplied with float frames.
            return FloatFrames(self.values(), size, self.slots).times(weight, column_D, factor_K, biases_K)
        weights_DK = weight.folded(column_D, factor_K)
        step_1K = (weights_DK.abs().max(0) / float(_WEIGHT)).clamp(low=1e-30)
        levels_DK = (weights_DK / step_1K).round()
        factor_N1 = self.factor_BT1.reshape(-1, 1)
        products_NK = dot(codes_BTD.reshape(-1, size), levels_DK.cast(np.int8)).cast(np.float32) * (factor_N1 * step_1K)
        # Biases last: otherwise ONNX Runtime adds them before it scales by the frame's factor.
        logits_NK = products_NK + factor_N1 * (levels_DK.sum(0) * step_1K * OFFSET)
        return self.slots.unflatten(logits_NK if biases_K is None else logits_NK + biases_K)

    def sums(self, assign_BTK: Value, clusters: int, scale_D: Operand) -> Value:
        ((own, codes_BTD),) = self.modalities
        highest_BT1, lowest_BT1 = _values(codes_BTD.max(2)), _values(codes_BTD.min(2))
        largest_BT1 = self.slots.graph.add("Max", highest_BT1, -lowest_BT1)
        gain_BT1 = (127.0 / largest_BT1).floor().clamp(low=1.0)
        # The fast kernel wants signed bytes on the right. Negated values all fit.
        step_BT1 = -1.0 / gain_BT1
        turned_BTD = quantized(_values(codes_BTD), step_BT1, step_BT1.full_like(np.int8(0)), own.stop - own.start)
        assign_BTK = assign_BTK * (self.factor_BT1 / gain_BT1)
        step_B1K = (assign_BTK.max(1) / float(_ASSIGNMENT)).clamp(low=1e-30)
        # Round down with a threshold by pattern: QuantizeLinear rounds to nearest, so subtract half a level.
        levels_BTK = quantized(assign_BTK / step_B1K + self._thresholds(clusters), 1.0, np.uint8(0))
        sums_BKD = dot(levels_BTK.permute(0, 2, 1), turned_BTD).cast(np.float32)
        # ONNX Runtime does the cast and both factors in one pass.
        return sums_BKD * (-step_B1K.permute(0, 2, 1) * scale_D)

    def _thresholds(self, clusters: int) -> Value:
        """The rounding pattern, float32 `[T, K]` in [-0.5, 0.5)."""
        frames_T1 = self.slots.count(self.slots.slots).cast(np.float32).unsqueeze(1)
        phase_TK = frames_T1 * _FRAME_STEP + np.arange(clusters, dtype=np.float32) * np.float32(_CLUSTER_STEP)
        return phase_TK - phase_TK.floor() - 0.5

    def square_sums(self, assign_BTK: Value, scale_D: Operand) -> Value:
        # Assignments are multiplied with the factor, because they are fewer.
        ((_, codes_BTD),) = self.modalities
        assign_BKT = (assign_BTK * (self.factor_BT1 * self.factor_BT1)).permute(0, 2, 1)
        return assign_BKT @ _squares(codes_BTD) * scale_D


def byte_frames(stored: Mapping[str, Value], spec: FeatureSpec, slots: Slots) -> ByteFrames:
    """The frames of `float_frames` as bytes. All modalities must be bytes."""
    modalities = [(columns, stored[name]) for name, columns in spec.slices().items()]
    squares = [_squares(codes).sum(2) for _, codes in modalities]
    total_BT1 = squares[0]
    for other_BT1 in squares[1:]:
        total_BT1 = total_BT1 + other_BT1
    return ByteFrames(modalities, _inverse_norms(total_BT1.sqrt(), slots), slots)


def _inverse_norms(norms_BT1: Value, slots: Slots) -> Value:
    """float32 `[B, T, 1]`, 0 at padding."""
    return 1.0 / norms_BT1.clamp(low=SMALLEST_NORM) * slots.weights_BT1


def _values(codes: Value) -> Value:
    """Bytes as float32, in steps of a byte from the value 0."""
    return codes.cast(np.float32) + OFFSET


def _squares(codes: Value) -> Value:
    values = _values(codes)
    return values * values
