"""What each bit width of each big tensor costs: one tensor at a time is quantised, the rest of the member stays float.

The cost is the divergence from the float member's probabilities; the search goes by it. The change in GAP is recorded
too, but a few hundred videos are too few to measure it above four bits.

Measuring tensor by tensor ignores what tensors do together. So for whole members, `search/candidates.py` records both
the sum of these divergences and the measured divergence.

Shapes: V videos, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch
from vidfit.progress import OnCount, uncounted
from vidfit.quantization.gptq import LayerInputs
from vidfit.quantization.member import Member
from vidfit.quantization.state import is_big
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize
from vidfit.training.validation import predict

# Up to this bit width GPTQ rounds. Above it, rounding to nearest costs no GAP (benchmarks/LOG.md).
GPTQ_BITS = 4
_SMALLEST = 1e-7


@dataclass(frozen=True)
class Cost:
    """One quantised tensor in a member that is float otherwise."""

    tensor: str
    scheme: QuantScheme
    bytes: int
    divergence: float
    """From the float member, nats per video."""
    gap_change: float
    """GAP minus the float member's GAP."""


def sensitivity(
    member: Member,
    batches: Sequence[Batch],
    schemes: Sequence[QuantScheme],
    inputs: Mapping[str, LayerInputs],
    on_count: OnCount = uncounted,
) -> Iterator[tuple[Cost, QuantizedTensor]]:
    """Quantise each big tensor of a float member with each scheme; yield its cost and the quantised tensor.

    Tensors whose values do not fit a scheme are skipped for that scheme. All values must be finite.

    Arguments:
        member: its tensors are float32.
        batches: labelled videos to measure on, not used in training.
        schemes: the schemes to try.
        inputs: samples of the tensors' inputs, by name (`calibration.collect`). Up to `GPTQ_BITS` bits, GPTQ rounds the
            tensors that have them. All others are rounded to nearest.
        on_count: called with (done, total).
    """
    classifier = member.classifier()
    parameters = {**dict(classifier.named_parameters()), **dict(classifier.named_buffers())}
    big = [name for name, value in member.state.items() if is_big(value)]

    def measure() -> tuple[np.ndarray, float]:
        metrics = Metrics(classifier.classes)
        predictions = [predict(classifier, batch) for batch in batches]
        for batch, predicted_BC in zip(batches, predictions, strict=True):
            metrics.update(predicted_BC, batch.labels.numpy(), batch.label_counts.numpy())
        return np.concatenate(predictions), metrics.result()["gap"]

    reference_VC, reference_gap = measure()
    for done, (name, scheme) in enumerate((name, scheme) for name in big for scheme in schemes):
        value = member.state[name]
        assert isinstance(value, Tensor)
        try:
            quantized = quantize(value, scheme, inputs.get(name) if scheme.bits <= GPTQ_BITS else None)
        except ValueError:  # too large or too close to constant for half precision; another scheme may fit
            continue
        parameters[name].data = quantized.dequantize()
        predicted_VC, gap = measure()
        away = divergence(reference_VC, predicted_VC)
        yield Cost(name, scheme, quantized.nbytes, away, gap - reference_gap), quantized
        parameters[name].data = value
        on_count(done + 1, len(big) * len(schemes))


def divergence(reference_VC: np.ndarray, probabilities_VC: np.ndarray) -> float:
    """Kullback-Leibler divergence from `reference` in nats: summed over classes, mean over videos.

    Each class counts as a Bernoulli variable: `p log(p / q) + (1 - p) log((1 - p) / (1 - q))`.
    """
    p, q = (values.astype(np.float64).clip(_SMALLEST, 1 - _SMALLEST) for values in (reference_VC, probabilities_VC))
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1).mean())
