"""Sums, means and maxima over the frames of each video, in a graph. Slots after a video's end count nowhere.

`kernels/pooling.py` has the same for PyTorch. Results must not depend on the other videos of a batch, nor on padding.

Shapes: B videos, T slots for frames, K values of a frame.
"""

from functools import cached_property

import numpy as np

from vidfit.export.graph_writer import GraphWriter, Value


class Slots:
    """Which slots of a batch hold frames.

    Arguments:
        graph: the graph that is written.
        frames: any value `[B, T, ...]`.
        num_frames: int64 `[B]`.
    """

    def __init__(self, graph: GraphWriter, frames: Value, num_frames: Value) -> None:
        self.graph, self.num_frames = graph, num_frames
        self.shape_2 = frames.sizes(0, 2)
        self.slots = frames.sizes(1, 2).squeeze(0)
        self.mask_BT = self.count(self.slots) < num_frames.unsqueeze(1)
        self.weights_BT = self.mask_BT.cast(np.float32)

    def count(self, stop: Value) -> Value:
        """int64, from 0 to before `stop`."""
        return self.graph.add("Range", np.int64(0), stop, np.int64(1))

    @cached_property
    def weights_BT1(self) -> Value:
        """float32: 1 in slots that hold frames, 0 in others."""
        return self.weights_BT.unsqueeze(2)

    @cached_property
    def _two_rows_B2T(self) -> Value:
        row_B1T = self.weights_BT.unsqueeze(1)
        return self.graph.concat([row_B1T, row_B1T], axis=1)

    @cached_property
    def _halves(self) -> tuple[Value, Value]:
        """For `max`: the rows of `[B * T, K]` to reduce, int64, and the shape of both halves, `[2 * B, T / 2, -1]`."""
        two, one = np.int64(2), np.int64(1)
        half = (self.slots + one) / two
        last_B1 = self.num_frames.unsqueeze(1) - one
        places_BT = self.graph.add("Min", self.count(half * two), last_B1)
        videos_1 = self.shape_2.part(0, 0, 1)
        starts_B = self.count(videos_1.squeeze(0)) * self.slots
        rows = (starts_B.unsqueeze(1) + places_BT).reshape(-1)
        return rows, self.graph.concat([videos_1 * two, half.unsqueeze(0), self.graph.integers(-1)], axis=0)

    def unflatten(self, values_NK: Value) -> Value:
        """`[B * T, K]` -> `[B, T, K]`."""
        shape = self.graph.concat([self.shape_2, self.graph.integers(-1)], axis=0)
        return self.graph.add("Reshape", values_NK, shape)

    def sum(self, values_BTK: Value) -> Value:
        """Float32 `[B, K]`.

        Two equal rows are multiplied and one is dropped. This fixes the order of the sum. In ONNX Runtime, the order of
        a plain sum depends on the number of videos, and that of a product with one row on the padding.
        """
        return (self._two_rows_B2T @ values_BTK).pick(1, 0)

    def mean(self, values_BTK: Value) -> Value:
        """Float32 `[B, K]`."""
        return self.sum(values_BTK) / self.weights_BT.sum(1)

    def max(self, values_BTK: Value, size: int) -> Value:
        """Float32 `[B, K]`, K = `size`.

        ONNX Runtime is seven times slower when the axis before the reduced one has length 1, as for one video. So two
        halves are reduced. Empty slots, and the extra one of an odd length, repeat the last frame.
        """
        rows, shape = self._halves
        chosen = self.graph.add("Gather", values_BTK.reshape(-1, size), rows, axis=0)
        halves_BTK = self.graph.add("Reshape", chosen, shape)
        return halves_BTK.max(1).reshape(-1, 2, size).max(1).squeeze(1)

    def exponentials(self, values_BTK: Value, size: int) -> tuple[Value, Value]:
        """`exp(v_t - m)`, float32 `[B, T, K]`, and m, a video's largest v, `[B, K]`. Those of padding are at most 1."""
        largest_BK = self.max(values_BTK, size)
        return (values_BTK - largest_BK.unsqueeze(1)).clamp(high=0.0).exp(), largest_BK
