"""Layers, norms and heads in a graph: `models/layers.py` and `models/heads.py` in evaluation mode.

Batch norms are folded into the weights before them.

Shapes: B videos, K clusters, D features, P descriptor, H hidden, C classes, E experts.
"""

from vidfit.export.descriptor import Descriptor
from vidfit.export.graph_writer import Value
from vidfit.export.tensors import Tensors
from vidfit.models.heads import Head, MixtureOfExperts
from vidfit.models.layers import SMALLEST_SQUARE, Hidden


def inverse_root(squares: Value) -> Value:
    """1 / L2 norm of a sum of squares; norms below 1e-6 count as 1e-6."""
    return 1.0 / squares.clamp(low=SMALLEST_SQUARE).sqrt()


def inverse_norm(values: Value, axis: int) -> Value:
    """1 / L2 norm along an axis, kept with length 1."""
    return inverse_root((values * values).sum(axis))


def intra_norm(residuals_BKD: Value) -> Value:
    """The factor per cluster that gives each cluster L2 norm 1, and then all together: float32 `[B, K, 1]`."""
    squares_BK1 = (residuals_BKD * residuals_BKD).sum(2)
    cluster_factor_BK1 = inverse_root(squares_BK1)
    whole_B11 = (squares_BK1 * (cluster_factor_BK1 * cluster_factor_BK1)).sum(1)
    return cluster_factor_BK1 * inverse_root(whole_B11)


def hidden(layer: Hidden, tensors: Tensors, descriptor: Value | Descriptor) -> Value:
    """The layer between descriptor and head, float32 `[B, H]`."""
    weight = tensors.weight("weights", nbits=True)
    if isinstance(descriptor, Descriptor):
        descriptor = descriptor.multiplied_by(weight)
    scale_H, shift_H = (None, None) if layer.norm is None else tensors.batch_norm("norm")
    hidden_BH = weight.multiply(descriptor, scale_H, shift_H if layer.biases is None else tensors.vector("biases"))
    return hidden_BH.clamp(0.0, 6.0) if layer.relu else hidden_BH


def context_gating(tensors: Tensors, values_BH: Value) -> Value:
    """`a * sigmoid(BN(a W))`, or with biases instead of the batch norm."""
    scale_H, shift_H = (None, tensors.vector("biases")) if "biases" in tensors else tensors.batch_norm("norm")
    return values_BH * tensors.weight("weights").multiply(values_BH, scale_H, shift_H).sigmoid()


def head(module: Head, tensors: Tensors, values_BH: Value) -> Value:
    """Probabilities, float32 `[B, C]`."""
    classifier = module.classifier
    write = _mixture_of_experts if isinstance(classifier, MixtureOfExperts) else _logistic
    probabilities_BC = write(classifier, tensors.within("classifier"), values_BH)
    if module.label_gating is None:
        return probabilities_BC
    return context_gating(tensors.within("label_gating"), probabilities_BC)


def _logistic(_: object, tensors: Tensors, values_BH: Value) -> Value:
    return tensors.weight("weights").multiply(values_BH, None, tensors.vector("biases")).sigmoid()


def _mixture_of_experts(classifier: MixtureOfExperts, tensors: Tensors, values_BH: Value) -> Value:
    experts = classifier.experts
    gates = tensors.weight("gate_weights").multiply(values_BH)
    gates_BCE = gates.reshape(0, -1, experts + 1).softmax().part(2, 0, experts)
    logits = tensors.weight("expert_weights").multiply(values_BH, None, tensors.vector("expert_biases"))
    return (gates_BCE * logits.sigmoid().reshape(0, -1, experts)).sum(2).squeeze(2)
