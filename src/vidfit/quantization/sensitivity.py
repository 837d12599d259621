"""What each big tensor's width costs: one tensor at a time is quantised, the rest of the member stays float.

The cost that the search goes by is the divergence from the float member's probabilities. GAP, which is told beside it,
moves by less than a few hundred videos can tell where there are more than four bits. What measuring tensor by tensor
trades away is what they do together: for whole members both the sum of their tensors' divergences and the measured one
are kept (`search/candidates.py`).

Shapes: V videos, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch
from vidfit.quantization.calibration import Moments
from vidfit.quantization.member import Member
from vidfit.quantization.state import is_big
from vidfit.quantization.uniform import Grid, QuantizedTensor, quantize
from vidfit.training.trainer import predict

# Above it, rounding to nearest costs nothing that GAP would tell (benchmarks/LOG.md).
COMPENSATED_BITS = 4
_SMALLEST = 1e-7


@dataclass(frozen=True)
class Cost:
    """One tensor on one grid, all others float."""

    tensor: str
    grid: Grid
    bytes: int
    divergence: float
    """From the float member, nats a video."""
    gap_change: float
    """GAP less that of the float member."""


def sensitivity(
    member: Member,
    batches: Sequence[Batch],
    grids: Sequence[Grid],
    moments: Mapping[str, Moments],
    show: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[tuple[Cost, QuantizedTensor]]:
    """The cost of each of a float member's big tensors on each grid, with the quantised tensor itself.

    Arguments:
        member: its tensors float32.
        batches: labelled videos to measure on, that the member was not trained on.
        grids: to try.
        moments: of the tensors' inputs, by name (`calibration.collect`); up to `COMPENSATED_BITS` rounding is
            compensated by them. Tensors without are rounded to nearest.
        show: called with (done, in all).

    Tensors whose values a grid cannot hold are left out for it. All values must be finite.
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
    for done, (name, grid) in enumerate((name, grid) for name in big for grid in grids):
        value = member.state[name]
        assert isinstance(value, Tensor)
        try:
            quantized = quantize(value, grid, moments.get(name) if grid.bits <= COMPENSATED_BITS else None)
        except ValueError:  # too close to constant, or too large, for scales in half precision: other grids have others
            continue
        parameters[name].data = quantized.dequantize()
        predicted_VC, gap = measure()
        away = divergence(reference_VC, predicted_VC)
        yield Cost(name, grid, quantized.nbytes, away, gap - reference_gap), quantized
        parameters[name].data = value
        show(done + 1, len(big) * len(grids))


def divergence(reference_VC: np.ndarray, probabilities_VC: np.ndarray) -> float:
    """Mean over videos of the Kullback-Leibler divergence from `reference`, summed over the classes; in nats.

    Each class is a Bernoulli variable: `p log(p / q) + (1 - p) log((1 - p) / (1 - q))`.
    """
    p, q = (values.astype(np.float64).clip(_SMALLEST, 1 - _SMALLEST) for values in (reference_VC, probabilities_VC))
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1).mean())
