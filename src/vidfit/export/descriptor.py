"""Descriptors in parts, rounded to bytes before they are scaled and concatenated.

A NetVLAD or NetFV scales its clusters to norm 1 and concatenates its modalities. A product of bytes needs neither pass
over floats: a cluster's factor goes into its rounding step, and bytes are concatenated instead.

Shapes: B videos, K clusters, D features, P descriptor.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vidfit.export.graph_writer import GraphWriter, Value
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, WeightFormat, quantized


class Part(NamedTuple):
    """Values `[B, K, D]` and their factors above zero: `[B, K, 1]`, or `[B, 1, 1]` if all clusters have the same."""

    values_BKD: Value
    factor_BK1: Value
    clusters: int
    features: int


class Descriptor:
    """The float32 descriptor `[B, P]`: parts times their factors, side by side.

    It has what `Int8Weight` needs of rows.
    """

    def __init__(self, graph: GraphWriter, parts: Sequence[Part]) -> None:
        self.graph, self.parts = graph, parts

    def multiplied_by(self, weight: WeightFormat) -> "Value | Descriptor":
        """What to multiply with a weight: long descriptors and bytes in parts, others as floats."""
        long = weight.shape[0] > FEW_INPUTS
        return self if long and isinstance(weight, Int8Weight) else self.values()

    def values(self) -> Value:
        """float32 `[B, P]`."""
        flat = [(it.values_BKD * it.factor_BK1).reshape(-1, it.clusters * it.features) for it in self.parts]
        return self.graph.concat(flat, axis=1)

    def min(self, axis: int) -> Value:
        """Minimum of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.min(2)).min(axis)

    def max(self, axis: int) -> Value:
        """Maximum of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.max(2)).max(axis)

    def sum(self, axis: int) -> Value:
        """Sum of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.sum(2)).sum(axis)

    def _by_cluster(self, reduce: Callable[[Value], Value]) -> Value:
        """Reduce each cluster of each part, float32 `[B, sum of K]`."""
        reduced = [(reduce(it.values_BKD) * it.factor_BK1).squeeze(2) for it in self.parts]
        return self.graph.concat(reduced, axis=1)

    def quantized(self, step_M1: Value, zero_M1: Value) -> Value:
        """uint8 `[B, P]`, with one step and zero point per video."""
        flat = []
        for values_BKD, factor_BK1, clusters, features in self.parts:
            # A descriptor of zeros has the smallest step and a large factor.
            step_BK1 = (step_M1.unsqueeze(2) / factor_BK1).clamp(low=1e-30).expand(1, clusters, 1)
            zero_BK1 = zero_M1.cast(np.uint8).unsqueeze(2).expand(1, clusters, 1)
            codes_BKD = quantized(values_BKD, step_BK1, zero_BK1, features)
            flat.append(codes_BKD.reshape(-1, clusters * features))
        return self.graph.concat(flat, axis=1)
