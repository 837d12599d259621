"""Give a packed file its thresholds: predict labelled videos with it, choose, write them into its metadata.

`evaluation/thresholds.py` says how they are chosen.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidfit import distributed
from vidfit.errors import DataError
from vidfit.evaluation.thresholds import LEVELS, nearest
from vidfit.export.graph import write_thresholds
from vidfit.files import read_table
from vidfit.inference.distributed_jobs import choose_thresholds
from vidfit.progress import OnProgress, counter

log = logging.getLogger(__name__)


def read_thresholds(table: Path, vocabulary: Sequence[str]) -> np.ndarray:
    """The level of each label, uint8 `[C]`, that is nearest to its threshold in a CSV file with `label,threshold`.

    Raises:
        DataError: the file cannot be read, a label is unknown or missing, or a threshold is no probability.
    """
    if not table.is_file():
        raise DataError(f"{table}: there is no such file; give a CSV with label,threshold")
    found = {}
    for line, row in enumerate(read_table(table), start=2):
        try:
            label, threshold = row["label"], float(row["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{table}, line {line}: give a label and a number, under label,threshold") from error
        if label not in vocabulary or not 0 < threshold < 1:
            what = (
                f"{label!r} is not in the vocabulary" if label not in vocabulary else f"{threshold} is no probability"
            )
            raise DataError(f"{table}, line {line}: {what}")
        found[label] = threshold
    if missing := [name for name in vocabulary if name not in found]:
        raise DataError(f"{table}: has no row for {missing[0]!r}; give a threshold for every label")
    return nearest(np.array([found[name] for name in vocabulary]))


def set_thresholds(
    path: Path,
    shards: Sequence[Path],
    precision: float | None,
    skip_corrupt: bool,
    labelled_only: bool,
    on_progress: OnProgress,
) -> None:
    """Choose the thresholds of a packed file on validation shards. All ranks predict.

    Arguments:
        path: what `write_graph` wrote.
        precision: see `choose`. None means the best F1.
        For the others see `vidfit.evaluate`.
    """
    levels_C = distributed.on_all_ranks(
        choose_thresholds,
        path,
        shards,
        precision,
        skip_corrupt,
        labelled_only,
        rank_0_only={"on_progress": counter(on_progress, "choosing thresholds", "videos")},
    )
    write_thresholds(path, levels_C)
    highest = int((levels_C == len(LEVELS) - 1).sum())
    if precision is not None and highest:
        log.warning(
            "%s: at no threshold does the precision of %d labels reach %g on the validation videos; they are given "
            "from probability %.4f on", path, highest, precision, LEVELS[-1],
        )  # fmt: skip
