"""Round descriptors to bytes part by part, before they are scaled and concatenated.

A NetVLAD or NetFV scales its clusters to norm 1 and concatenates its modalities. A product of bytes needs neither pass
over floats: a cluster's factor goes into its rounding step, and bytes are concatenated instead.

Shapes: B videos, K clusters, D features, P descriptor.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vidfit.export.weight_formats import quantised


class StoredDescriptor:
    """The float32 descriptor `[B, P]` of `flatten_scaled`, or several concatenated, kept in parts.

    Arguments:
        parts: values `[B, K, D]` and their factors above zero. Factors are `[B, K, 1]`, or `[B, 1, 1]` if all clusters
            have the same.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.parts = parts

    @classmethod
    def flatten_scaled(cls, values_BKD: Tensor, factor_BK1: Tensor) -> "StoredDescriptor":
        """As `flatten_scaled` of `models/layers.py`."""
        return cls([(values_BKD, factor_BK1)])

    @property
    def shape(self) -> torch.Size:
        """`[B, P]`."""
        values_BKD, _ = self.parts[0]
        return torch.Size((values_BKD.shape[0], sum(values.shape[1:].numel() for values, _ in self.parts)))

    def amin(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor:
        """Minimum of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.amin(2)).amin(dim, keepdim)

    def amax(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor:
        """Maximum of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.amax(2)).amax(dim, keepdim)

    def sum(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor:
        """Sum of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.sum(2)).sum(dim, keepdim)

    def _by_cluster(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Reduce each cluster of each part, float32 `[B, sum of K]`."""
        return torch.cat([reduce(values) * factor[:, :, 0] for values, factor in self.parts], dim=1)

    def quantised(self, step: Tensor, dtype: torch.dtype, zero: Tensor) -> Tensor:
        """As `weight_formats.quantised` with one step and zero point per video, `[B, P]`."""
        parts = []
        for values, factor in self.parts:
            rows = (-1, values.shape[1], 1)
            # A descriptor of zeros has the smallest step and a large factor.
            own = (step[:, :, None] / factor).clamp_min(1e-30).expand(rows)
            parts.append(quantised(values, own, dtype, zero[:, :, None].expand(rows)).flatten(1))
        return torch.cat(parts, dim=1)

    def values(self) -> Tensor:
        """float32 `[B, P]`."""
        return torch.cat([(values * factor).flatten(1) for values, factor in self.parts], dim=1)

    def __matmul__(self, weights: Any) -> Tensor:
        return self.values() @ weights if isinstance(weights, Tensor) else NotImplemented

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], arguments: Sequence[Any], options: dict[str, Any] | None = None
    ) -> "StoredDescriptor":
        match function.__name__, arguments:
            case "cat", (descriptors,) if options == {"dim": 1}:
                return cls([part for it in descriptors for part in it.parts])
            case "dropout", (StoredDescriptor() as descriptor, *_):  # an exported model does not train
                return descriptor
        return NotImplemented
