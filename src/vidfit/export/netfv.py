"""NetFV in a graph; `models/netfv.py` has the formulas.

Shapes: B videos, T frames, D features, K clusters.
"""

from vidfit.export.descriptor import Descriptor, Part
from vidfit.export.frames import Frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import intra_norm, inverse_root
from vidfit.export.pooled import NormalisedFrames, pooled
from vidfit.export.tensors import Tensors
from vidfit.models.netfv import FisherVector, NetFV


def netfv(family: NetFV, tensors: Tensors, frames: Frames) -> Value:
    """Frames to the head's input, float32 `[B, H]`."""

    def join(parts: list[tuple[Part, Part]]) -> Descriptor:
        return Descriptor(tensors.graph, [part for both in parts for part in both])

    return pooled(family, tensors, frames, _describe, join)


def _describe(pool: FisherVector, tensors: Tensors, normalised: NormalisedFrames) -> tuple[Part, Part]:
    """First order `sum_t a_tk (x_t - c_k) / s_k^2`, second order `sum_t a_tk ((x_t - c_k)^2 / s_k^4 - 1)`."""
    assign_BTK = normalised.assignment(tensors.within("assignment")).softmax()
    mass_BK1, assign_BTK = normalised.mass_and_counted(assign_BTK)
    frames, scale_D = normalised.frames, normalised.scale_D
    # With z = frames * scale and o = shift - centre, the residual is z + o.
    sums_BKD = frames.sums(assign_BTK, pool.clusters, scale_D)
    squares_BKD = frames.square_sums(assign_BTK, scale_D * scale_D)
    offset_KD = normalised.shift_D - tensors.weight("centres").folded().permute(1, 0)
    residuals_BKD = sums_BKD + mass_BK1 * offset_KD
    deviations_KD = tensors.weight("deviations").folded().permute(1, 0)
    variance_KD = deviations_KD * deviations_KD + 1e-6
    first_BKD = residuals_BKD / variance_KD
    second_BKD = (squares_BKD + offset_KD * (sums_BKD + residuals_BKD)) / (variance_KD * variance_KD) - mass_BK1
    # All clusters of the second order have one factor.
    whole_B11 = inverse_root((second_BKD * second_BKD).sum(2).sum(1))
    size = (pool.clusters, len(pool.assignment.weights))
    return Part(first_BKD, intra_norm(first_BKD), *size), Part(second_BKD, whole_B11, *size)
