"""NeXtVLAD in a graph; `models/nextvlad.py` has the formulas.

Shapes: B videos, T frames, W = expansion * D values of a wide frame, G groups, K clusters, J = W / G features of a
group, P = T * G points, H hidden.
"""

from vidfit.export.frames import FloatFrames, Frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import hidden, inverse_norm
from vidfit.export.tensors import Tensors
from vidfit.models.nextvlad import NeXtVLAD, NeXtVLADPool


def nextvlad(family: NeXtVLAD, tensors: Tensors, frames: Frames) -> Value:
    """Frames to the head's input, float32 `[B, H]`."""
    parts = [
        _describe(pool, tensors.within(f"pools.{place}"), frames.columns(own))  # type: ignore[arg-type]
        for place, (pool, own) in enumerate(zip(family.pools, family.columns, strict=True))
    ]
    hidden_BH = hidden(family.hidden, tensors.within("hidden"), tensors.graph.concat(parts, axis=1))
    return hidden_BH * _gate(tensors.within("gate"), hidden_BH)


def _describe(pool: NeXtVLADPool, tensors: Tensors, frames: Frames) -> Value:
    """Float32 `[B, J * K]`, feature by feature."""
    groups, (size, clusters) = pool.groups, pool.centres.shape
    slots = frames.slots
    wide_BTW = frames.times(tensors.weight("expansion"), None, None, tensors.vector("expansion_biases"))
    wide = FloatFrames(wide_BTW, size * groups, slots)
    attention_BTG = wide.times(tensors.weight("attention"), None, None, tensors.vector("attention_biases")).sigmoid()
    attention_BTG = attention_BTG * slots.weights_BT1
    logits = wide.times(tensors.weight("assignment"), None, *tensors.batch_norm("assignment_norm"))
    assign_BTGK = logits.reshape(0, 0, groups, clusters).softmax() * attention_BTG.unsqueeze(3)
    # Every group of every frame is a point; the sums over points are products.
    assign_BPK, points_BPJ = assign_BTGK.reshape(0, -1, clusters), wide_BTW.reshape(0, -1, size)
    mass_B1K = assign_BPK.sum(1)
    sums_BJK = points_BPJ.permute(0, 2, 1) @ assign_BPK
    residuals_BJK = sums_BJK - mass_B1K * tensors.weight("centres").folded()
    flat = (residuals_BJK * inverse_norm(residuals_BJK, 1)).reshape(0, -1)
    scale, shift = tensors.batch_norm("output_norm")
    return flat * scale + shift


def _gate(tensors: Tensors, hidden_BH: Value) -> Value:
    """`sigmoid(ReLU(BN(h W_1)) W_2)`."""
    squeezed = tensors.weight("squeeze").multiply(hidden_BH, *tensors.batch_norm("norm")).relu()
    return tensors.weight("excite").multiply(squeezed).sigmoid()
