"""NetVLAD in a graph; `models/netvlad.py` has the formulas.

Shapes: B videos, T frames, D features, K clusters.
"""

from vidfit.export.descriptor import Descriptor, Part
from vidfit.export.frames import Frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import intra_norm
from vidfit.export.pooled import NormalisedFrames, pooled
from vidfit.export.tensors import Tensors
from vidfit.models.netvlad import VLAD, NetVLAD


def netvlad(family: NetVLAD, tensors: Tensors, frames: Frames) -> Value:
    """Frames to the head's input, float32 `[B, H]`."""
    return pooled(family, tensors, frames, _describe, lambda parts: Descriptor(tensors.graph, parts))


def _describe(pool: VLAD, tensors: Tensors, normalised: NormalisedFrames) -> Part:
    """`V_k = sum_t a_tk (x_t - c_k)`, each of norm 1, and then all together."""
    assign_BTK = normalised.assignment(tensors.within("assignment")).softmax()
    mass_BK1, assign_BTK = normalised.mass_and_counted(assign_BTK)
    offset = normalised.shift_D
    if pool.centres is not None:
        offset = offset - tensors.weight("centres").folded().permute(1, 0)
    sums_BKD = normalised.frames.sums(assign_BTK, pool.clusters, normalised.scale_D)
    residuals_BKD = sums_BKD + mass_BK1 * offset
    return Part(residuals_BKD, intra_norm(residuals_BKD), pool.clusters, len(pool.assignment.weights))
