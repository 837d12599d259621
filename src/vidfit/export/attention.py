"""Attentive pooling in a graph; `models/attention.py` has the formulas.

Shapes: B videos, T frames, A heads, V values of a head, H hidden.
"""

from vidfit.export.frames import Frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import hidden
from vidfit.export.pooled import NormalisedFrames
from vidfit.export.tensors import Tensors
from vidfit.models.attention import AttentionPooling


def attention(family: AttentionPooling, tensors: Tensors, frames: Frames) -> Value:
    """Frames to the head's input, float32 `[B, H]`."""
    slots, heads = frames.slots, family.queries.shape[1]
    size = family.values.shape[1] // heads
    normalised = NormalisedFrames(frames, *tensors.batch_norm("input_norm"))
    scores_BTA, _ = slots.exponentials(normalised.times(tensors, "queries"), heads)
    totals_BA = slots.sum(scores_BTA)
    values_BATV = normalised.times(tensors, "values").reshape(0, 0, heads, size).permute(0, 2, 1, 3)
    scores_BA1T = (scores_BTA * slots.weights_BT1).permute(0, 2, 1).unsqueeze(2)
    means_BAV = (scores_BA1T @ values_BATV).squeeze(2) / totals_BA.unsqueeze(2)
    return hidden(family.hidden, tensors.within("hidden"), means_BAV.reshape(0, heads * size))
