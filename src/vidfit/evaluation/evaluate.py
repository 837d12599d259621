"""Any predictor over labelled shards: the figures of a model, a member or an ensemble.

Each shard is measured alone, and the measures are merged in the order of the shards. So several ranks, each with its
own shards, get the same figures as one process, bit for bit.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidfit import distributed
from vidfit.errors import DataError
from vidfit.evaluation.decisions import Decisions
from vidfit.evaluation.metrics import Metrics
from vidfit.evaluation.reliability import Reliability
from vidfit.evaluation.thresholds import Counts, LevelCounts
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches, NoRecordsError
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import estimate_records
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.progress import OnCount, uncounted

Predict = Callable[[Batch], np.ndarray]


def evaluate(
    predict: Predict,
    batches: Batches,
    classes: int,
    on_count: OnCount = uncounted,
    thresholds_C: np.ndarray | None = None,
) -> dict[str, float]:
    """Metrics of `predict` over all batches. All ranks call it together, and each has the result.

    Arguments:
        predict: probabilities `[B, C]` float32 of a batch.
        batches: labelled videos; those without a label count too.
        classes: size of the vocabulary, C.
        on_count: called on each rank with (videos so far, about how many in all); of several ranks an estimate.
        thresholds_C: float32, from which probability on each label holds.

    Returns:
        What `Metrics.result` holds and, with thresholds, `Decisions.result`; `skipped`, corrupt records that were left
        out, and `skipped_bytes`, what they take; `unlabelled`, videos without a label; and `seconds` of wall time, with
        reading.

    Raises:
        DataError: there is no video, none has a label, or a record is not what it should be.
    """
    decisions = None if thresholds_C is None else Decisions(thresholds_C)
    measured, passed = _measure(predict, batches, _Measures(Metrics(classes), decisions), on_count)
    return measured.metrics.result() | (measured.decisions.result() if measured.decisions else {}) | passed


def evaluate_labels(
    predict: Predict,
    batches: Batches,
    names: Sequence[str],
    thresholds_C: np.ndarray,
    on_count: OnCount = uncounted,
) -> tuple[dict[str, float], dict[str, Any]]:
    """As `evaluate`, and how good each label and the probabilities themselves are.

    Arguments:
        predict: probabilities `[B, C]` float32 of a batch.
        batches: labelled videos; those without a label count too.
        names: the vocabulary, C names.
        thresholds_C: float32, from which probability on each label holds.
        on_count: called on each rank with (videos so far, about how many in all); of several ranks an estimate.

    Returns:
        What `evaluate` gives, and `labels` (of each `name`, `positives`, `average_precision`, which is None without
        positives, and what `Decisions.labels` holds), `reliability` (the bins of `Reliability`) and `ece` (its
        expected calibration error).

    Raises:
        DataError: there is no video, none has a label, or a record is not what it should be.
    """
    nothing = _Measures(Metrics(len(names)), Decisions(thresholds_C), Reliability())
    measured, passed = _measure(predict, batches, nothing, on_count)
    metrics, decisions, reliability = measured.metrics, measured.decisions, measured.reliability
    assert decisions is not None
    assert reliability is not None
    columns = zip(
        names, metrics.positives.tolist(), metrics.average_precisions().tolist(), decisions.labels(), strict=True
    )
    labels = [
        {"name": name, "positives": positives, "average_precision": precision if positives else None, **decided}
        for name, positives, precision, decided in columns
    ]
    return metrics.result() | decisions.result() | passed, {
        "labels": labels,
        "reliability": reliability.bins(),
        "ece": reliability.expected_calibration_error(),
    }


def count_levels(predict: Predict, batches: Batches, classes: int, on_count: OnCount = uncounted) -> Counts:
    """What each label would get at each threshold (see `evaluation/thresholds.py`).

    Arguments and errors: as `evaluate`.
    """
    measured, _ = _measure(predict, batches, _Measures(Metrics(classes), levels=LevelCounts(classes)), on_count)
    assert measured.levels is not None
    return measured.levels.result()


def skipped_of(result: Mapping[str, float]) -> Skipped:
    """What an evaluation left out because it could not be read."""
    return Skipped(int(result["skipped"]), int(result["skipped_bytes"]))


@dataclass
class _Measures:
    """Of some videos."""

    metrics: Metrics
    decisions: Decisions | None = None
    reliability: Reliability | None = None
    levels: LevelCounts | None = None
    skipped: Skipped = NOTHING
    unlabelled: int = 0

    def update(self, probabilities_BC: np.ndarray, batch: Batch) -> None:
        for measure in (self.metrics, self.decisions, self.reliability, self.levels):
            if measure:
                measure.update(probabilities_BC, batch.labels.numpy(), batch.label_counts.numpy())
        self.unlabelled += int((batch.label_counts == 0).sum())

    def merge(self, later: "_Measures") -> None:
        self.metrics.merge(later.metrics)
        if self.decisions and later.decisions:
            self.decisions.merge(later.decisions)
        if self.reliability and later.reliability:
            self.reliability.merge(later.reliability)
        if self.levels and later.levels:
            self.levels.merge(later.levels)
        self.skipped += later.skipped
        self.unlabelled += later.unlabelled


def _measure(
    predict: Predict, batches: Batches, nothing: _Measures, on_count: OnCount
) -> tuple[_Measures, dict[str, float]]:
    """The measures of all shards together; and what else `evaluate` tells. `nothing` has no videos yet."""
    start, total = time.perf_counter(), estimate_records(batches.shards)

    def of_each_shard() -> Iterator[_Measures]:
        """Of this rank's share."""
        measures, videos = deepcopy(nothing), 0
        for read in read_ahead(batches.shard_by_shard(distributed.share_of_rank(batches.shards))):
            if isinstance(read, Batch):
                measures.update(predict(read), read)
                videos += len(read)
                on_count(min(videos * distributed.world_size(), total), total)
            else:
                measures.skipped = read
                yield measures
                measures = deepcopy(nothing)

    everything = deepcopy(nothing)
    for of_shard in distributed.gather_in_order(of_each_shard(), len(batches.shards)):
        everything.merge(of_shard)
    if not everything.metrics.videos:
        raise NoRecordsError(batches.shards, everything.skipped, batches.clips)
    if not everything.metrics.positives.any():
        raise DataError(
            f"none of the {everything.metrics.videos} videos has a label, so there is nothing to compare with; "
            "evaluate on labelled shards, or use `vidfit predict`"
        )
    skipped = everything.skipped
    return everything, {
        "skipped": skipped.records,
        "skipped_bytes": skipped.bytes,
        "unlabelled": everything.unlabelled + skipped.unlabelled,
        "seconds": time.perf_counter() - start,
    }
