"""Any predictor over labelled batches: the figures of a model, a member or an ensemble on a set of shards."""

import time
from collections.abc import Callable, Iterable

import numpy as np

from vidfit.errors import DataError
from vidfit.evaluation.metrics import Metrics
from vidfit.features.batches import Batch


def evaluate(predict: Callable[[Batch], np.ndarray], batches: Iterable[Batch], classes: int) -> dict[str, float]:
    """Metrics of `predict` over all batches.

    Arguments:
        predict: probabilities `[B, C]` float32 of a batch.
        batches: labelled videos; those without a label count too.
        classes: size of the vocabulary, C.

    Returns:
        What `Metrics.result` holds, `skipped` (corrupt records passed over) and `seconds` (of wall time, with reading).

    Raises:
        DataError: there is no video, or none has a label.
    """
    start = time.perf_counter()
    metrics = Metrics(classes)
    skipped = labels = 0
    for batch in batches:
        metrics.update(predict(batch), batch.labels.numpy(), batch.label_counts.numpy())
        skipped += batch.skipped
        labels += len(batch.labels)
    if not labels:
        raise DataError(
            f"none of the {metrics.videos} videos has a label, so there is nothing to compare with; "
            "evaluate on labelled shards, or use `vidfit predict`"
        )
    return metrics.result() | {"skipped": skipped, "seconds": time.perf_counter() - start}
