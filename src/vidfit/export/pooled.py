"""What the families that pool over clusters share in a graph: `models/pooled.py`, and the assignments they sum.

Shapes: B videos, T frames, D features, K clusters, H hidden.
"""

from collections.abc import Callable
from typing import Any

from vidfit.export.descriptor import Descriptor
from vidfit.export.frames import Frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import context_gating, hidden
from vidfit.export.tensors import Tensors
from vidfit.models.pooled import PooledFamily


class NormalisedFrames:
    """The frames of one modality after the family's batch norm: `x = frames * scale + shift`.

    Scale and shift go into weights and sums; the normalised frames never exist. `kernels/pooling.py` says why.
    """

    def __init__(self, frames: Frames, scale_D: Any, shift_D: Any) -> None:
        self.frames, self.scale_D, self.shift_D = frames, scale_D, shift_D
        self.slots = frames.slots

    def times(self, tensors: Tensors, name: str) -> Value:
        """`x W`, float32 `[B, T, K]`."""
        return self.frames.times(tensors.weight(name), self.scale_D, None, self.shift_D @ tensors.floats(name))

    def assignment(self, tensors: Tensors) -> Value:
        """`BN(x W)`, float32 `[B, T, K]`, in one pass over the result."""
        scale_K, shift_K = tensors.batch_norm("norm")
        biases_K = self.shift_D @ tensors.floats("weights") * scale_K + shift_K
        return self.frames.times(tensors.weight("weights"), self.scale_D, scale_K, biases_K)

    def mass_and_counted(self, assign_BTK: Value) -> tuple[Value, Value]:
        """The assignments' sums, `[B, K, 1]`, and the assignments with 0 at padding, `[B, T, K]`."""
        return self.slots.sum(assign_BTK).unsqueeze(2), assign_BTK * self.slots.weights_BT1


def pooled(
    family: PooledFamily,
    tensors: Tensors,
    frames: Frames,
    describe: Callable[[Any, Tensors, NormalisedFrames], Any],
    join: Callable[[list[Any]], Value | Descriptor],
) -> Value:
    """Frames to the head's input, float32 `[B, H]`.

    Arguments:
        family: its structure.
        tensors: its tensors.
        frames: of all modalities.
        describe: a pool of the family, its tensors and the frames of its modality -> its part of the descriptor.
        join: puts the parts together.
    """
    scale_D, shift_D = tensors.batch_norm("input_norm")
    parts = [
        describe(
            pool,
            tensors.within(f"pools.{place}"),
            NormalisedFrames(frames.columns(own), scale_D[own], shift_D[own]),
        )
        for place, (pool, own) in enumerate(zip(family.pools, family.columns, strict=True))
    ]
    hidden_BH = hidden(family.hidden, tensors.within("hidden"), join(parts))
    return hidden_BH if family.gating is None else context_gating(tensors.within("gating"), hidden_BH)
