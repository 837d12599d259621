"""Deep bag of frames in a graph; `models/dbof.py` has the formulas.

Shapes: B videos, T frames, K clusters.
"""

from vidfit.export.frames import Frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import inverse_norm
from vidfit.export.pooled import NormalisedFrames, pooled
from vidfit.export.tensors import Tensors
from vidfit.models.dbof import Bag, DBoF


def dbof(family: DBoF, tensors: Tensors, frames: Frames) -> Value:
    """Frames to the head's input, float32 `[B, H]`."""
    return pooled(family, tensors, frames, _describe, lambda parts: tensors.graph.concat(parts, axis=1))


def _describe(pool: Bag, tensors: Tensors, normalised: NormalisedFrames) -> Value:
    """Float32 `[B, K]`."""
    logits_BTK, slots = normalised.assignment(tensors.within("assignment")), normalised.slots
    if pool.pooling == "max":
        return slots.max(logits_BTK.clamp(0.0, 6.0), pool.clusters)
    assign_BTK = logits_BTK.softmax()
    bag_BK = slots.sum(assign_BTK)
    if pool.gate is not None:
        bag_BK = bag_BK * _gate(tensors.within("gate"), slots.max(assign_BTK, pool.clusters))
    return bag_BK * inverse_norm(bag_BK, 1)


def _gate(tensors: Tensors, largest_BK: Value) -> Value:
    """`sigmoid(BN(normalise(m) R W))`."""
    reduced_BD = tensors.weight("reduction").multiply(largest_BK * inverse_norm(largest_BK, 1))
    return tensors.weight("weights").multiply(reduced_BD, *tensors.batch_norm("norm")).sigmoid()
