"""Give a packed file its thresholds: predict labelled videos with it, choose, write them into its metadata.

`evaluation/thresholds.py` says how they are chosen.
"""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidfit import distributed
from vidfit.errors import DataError, reason
from vidfit.evaluation.thresholds import LEVELS, nearest
from vidfit.export.graph import write_thresholds
from vidfit.export.metadata import read_info
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
    places: dict[str, list[int]] = {}
    for place, name in enumerate(vocabulary):
        places.setdefault(name, []).append(place)  # several labels may share a name: their rows are in their order
    thresholds_C = np.full(len(vocabulary), np.nan)
    try:
        rows = read_table(table)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table}: is no CSV file in UTF-8 ({reason(error)}); give one with label,threshold") from error
    for line, row in enumerate(rows, start=2):
        try:
            label, threshold = row["label"], float(row["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{table}, line {line}: give a label and a number, under label,threshold") from error
        if label not in places:
            raise DataError(f"{table}, line {line}: {label!r} is not in the vocabulary; correct or remove the row")
        if not 0 < threshold < 1:
            raise DataError(f"{table}, line {line}: {threshold:g} is no probability; give a number between 0 and 1")
        if not places[label]:
            raise DataError(f"{table}, line {line}: {label!r} has a threshold already; remove one of the rows")
        thresholds_C[places[label].pop(0)] = threshold
    if missing := [name for name, threshold in zip(vocabulary, thresholds_C, strict=True) if np.isnan(threshold)]:
        raise DataError(f"{table}: has no row for {missing[0]!r}; give a threshold for every label")
    return nearest(thresholds_C)


def set_thresholds(
    path: Path,
    table: str | Path | None,
    shards: Sequence[Path],
    precision: float | None,
    skip_corrupt: bool,
    labelled_only: bool,
    on_progress: OnProgress,
) -> None:
    """Give a packed file the thresholds of a table, or else those that fit validation shards. All ranks predict.

    Arguments:
        path: what `write_graph` wrote.
        table: a CSV file with `label,threshold`.
        shards: to choose on. Without these and a table, the file gets no thresholds.
        precision: see `choose`. None means the best F1.
        For the others see `vidfit.evaluate`.
    """
    if table:
        vocabulary = read_info(path).vocabulary
        write_thresholds(path, read_thresholds(Path(table), vocabulary))
        return
    if not shards:
        return
    levels_C = distributed.on_all_ranks(
        choose_thresholds,
        path,
        shards,
        precision,
        skip_corrupt,
        labelled_only,
        rank_0_only={"on_count": counter(on_progress, "choosing thresholds", "videos")},
    )
    write_thresholds(path, levels_C)
    highest = int((levels_C == len(LEVELS) - 1).sum())
    if precision is not None and highest:
        log.warning(
            "at no threshold does the precision of %d labels reach %g on the validation videos; they are given from "
            "probability %.4f on", highest, precision, LEVELS[-1],
        )  # fmt: skip
