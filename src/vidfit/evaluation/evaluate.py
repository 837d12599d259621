"""Any predictor over labelled batches: the figures of a model, a member or an ensemble on a set of shards."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from vidfit.errors import DataError
from vidfit.evaluation.metrics import Metrics
from vidfit.evaluation.reliability import Reliability
from vidfit.features.batches import Batch

Predict = Callable[[Batch], np.ndarray]


def evaluate(predict: Predict, batches: Iterable[Batch], classes: int) -> dict[str, float]:
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
    metrics = Metrics(classes)
    passed = _feed(predict, batches, metrics)
    return metrics.result() | passed


def evaluate_labels(
    predict: Predict, batches: Iterable[Batch], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, Any]]:
    """As `evaluate`, and how good each label and the probabilities themselves are.

    Arguments:
        predict: probabilities `[B, C]` float32 of a batch.
        batches: labelled videos; those without a label count too.
        names: the vocabulary, C names.

    Returns:
        What `evaluate` gives, and `labels` (`name`, `positives` and `average_precision` of each, which is None without
        positives), `reliability` (the bins of `Reliability`) and `ece` (its expected calibration error).

    Raises:
        DataError: there is no video, or none has a label.
    """
    metrics, reliability = Metrics(len(names)), Reliability()
    passed = _feed(predict, batches, metrics, reliability)
    columns = zip(names, metrics.positives.tolist(), metrics.average_precisions().tolist(), strict=True)
    labels = [
        {"name": name, "positives": positives, "average_precision": precision if positives else None}
        for name, positives, precision in columns
    ]
    return metrics.result() | passed, {
        "labels": labels,
        "reliability": reliability.bins(),
        "ece": reliability.expected_calibration_error(),
    }


def _feed(predict: Predict, batches: Iterable[Batch], *measures: Metrics | Reliability) -> dict[str, float]:
    """Show every measure all predictions; gives `skipped` and `seconds`."""
    start = time.perf_counter()
    videos = skipped = labels = 0
    for batch in batches:
        probabilities = predict(batch)
        for measure in measures:
            measure.update(probabilities, batch.labels.numpy(), batch.label_counts.numpy())
        videos += len(batch)
        skipped += batch.skipped
        labels += len(batch.labels)
    if not labels:
        raise DataError(
            f"none of the {videos} videos has a label, so there is nothing to compare with; "
            "evaluate on labelled shards, or use `vidfit predict`"
        )
    return {"skipped": skipped, "seconds": time.perf_counter() - start}
