"""Descriptors in a graph: rounded to bytes part by part, before they are scaled or stand side by side.

A NetVLAD or NetFV scales its clusters to norm 1 and puts modalities one after another, passes over floats that a
product of bytes can do without: a cluster's factor goes into its step, and bytes are put together in floats' stead.

Shapes: B videos, K clusters, D features, P descriptor.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from vidfit.models.layers import normalising
from vidfit.packing.forms import quantised


class StoredDescriptor:
    """What stands for the float32 `[B, P]` of `flatten_normalised`, and of several side by side.

    Arguments:
        parts: one after another, values `[B, K, D]` and what they are multiplied with, `[B, K, 1]`, above zero.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.parts = parts

    @classmethod
    def flatten_normalised(cls, residuals_BKD: Tensor) -> "StoredDescriptor":
        """As that of `models/layers.py`."""
        return cls([(residuals_BKD, normalising(residuals_BKD)[:, :, None])])

    @property
    def shape(self) -> torch.Size:
        """`[B, P]`."""
        values_BKD, _ = self.parts[0]
        return torch.Size((values_BKD.shape[0], sum(values[0].numel() for values, _ in self.parts)))

    def amin(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor:
        """Of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.amin(2)).amin(dim, keepdim)

    def amax(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor:
        """Of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.amax(2)).amax(dim, keepdim)

    def sum(self, dim: Literal[1], keepdim: Literal[True]) -> Tensor:
        """Of each video, `[B, 1]`."""
        return self._by_cluster(lambda values_BKD: values_BKD.sum(2)).sum(dim, keepdim)

    def _by_cluster(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Of each cluster of each part, float32 `[B, sum of K]`."""
        return torch.cat([reduce(values) * factor[:, :, 0] for values, factor in self.parts], dim=1)

    def quantised(self, step: Tensor, dtype: torch.dtype, zero: Tensor) -> Tensor:
        """As `forms.quantised` with a step and a zero point a video, `[B, P]`."""
        parts = []
        for values, factor in self.parts:
            own = (step[:, :, None] / factor).clamp_min(1e-30)
            parts.append(quantised(values, own, dtype, zero[:, :, None].expand_as(own)).flatten(1))
        return torch.cat(parts, dim=1)

    def values(self) -> Tensor:
        """float32 `[B, P]`."""
        return torch.cat([(values * factor).flatten(1) for values, factor in self.parts], dim=1)

    def __matmul__(self, weights: Any) -> Tensor:
        return self.values() @ weights if isinstance(weights, Tensor) else NotImplemented

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], arguments: Sequence[Any], options: dict[str, Any] | None = None
    ) -> Any:
        match function.__name__, arguments:
            case "cat", (list() as descriptors, *_):
                return cls([part for it in descriptors for part in _parts(it)])
            case "dropout", (StoredDescriptor() as descriptor, *_):
                return descriptor
        expanded = [it.values() if isinstance(it, cls) else it for it in arguments]
        return function(*expanded, **(options or {}))


def _parts(descriptor: StoredDescriptor | Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    if isinstance(descriptor, StoredDescriptor):
        return descriptor.parts
    return [(descriptor[:, None], torch.ones_like(descriptor[:, :1, None]))]
