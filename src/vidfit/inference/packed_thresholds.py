"""Give a packed file its thresholds: predict labelled videos with it, choose, write them into its metadata.

`evaluation/thresholds.py` says how they are chosen.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from vidfit import distributed
from vidfit.evaluation.thresholds import LEVELS
from vidfit.export.graph import write_thresholds
from vidfit.inference.distributed_jobs import choose_thresholds
from vidfit.progress import OnProgress, counter

log = logging.getLogger(__name__)


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
