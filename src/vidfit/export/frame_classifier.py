"""The frame classifier in a graph; `models/frame_classifier.py` has the formulas.

Shapes: B videos, T frames, C classes.
"""

from vidfit.export.frames import Frames
from vidfit.export.graph_writer import Value
from vidfit.export.tensors import Tensors
from vidfit.models.frame_classifier import FrameClassifier


def frame_classifier(family: FrameClassifier, tensors: Tensors, frames: Frames) -> tuple[Value, Value]:
    """Probabilities of the videos, float32 `[B, C]`, and of their frames, float32 `[B, T, C]`."""
    logits_BTC = frames.times(tensors.weight("weights"), None, None, tensors.vector("biases"))
    probabilities_BTC = logits_BTC.sigmoid()
    return _pooled(family, tensors, frames, logits_BTC, probabilities_BTC), probabilities_BTC


def _pooled(
    family: FrameClassifier, tensors: Tensors, frames: Frames, logits_BTC: Value, probabilities_BTC: Value
) -> Value:
    slots, classes = frames.slots, len(family.biases)
    match family.config.pooling:
        case "max":
            return slots.max(logits_BTC, classes).sigmoid()
        case "log-sum-exp":
            temperature = family.config.temperature
            exponentials_BTC, largest_BC = slots.exponentials(logits_BTC / temperature, classes)
            return ((largest_BC + slots.mean(exponentials_BTC).log()) * temperature).sigmoid()
        case "attention":
            scores_BTC = frames.times(tensors.weight("attention_weights"))
            exponentials_BTC, _ = slots.exponentials(scores_BTC, classes)
            return slots.sum(exponentials_BTC * probabilities_BTC) / slots.sum(exponentials_BTC)
        case "mean":
            return slots.mean(probabilities_BTC)
        case _:
            # log(1 - sigmoid(z)) = -softplus(z)
            return 1.0 - (-slots.sum(logits_BTC.softplus())).exp()
