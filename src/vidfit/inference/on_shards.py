"""Evaluate a model on shards, and write its predictions for them: `vidfit.evaluate` and `vidfit.predict`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from vidfit import distributed
from vidfit.features.shards import expand_shards
from vidfit.inference import distributed_jobs
from vidfit.inference.predictor import BATCH_SIZE
from vidfit.inference.resume import Written
from vidfit.progress import OnProgress, counter, silent

log = logging.getLogger(__name__)

Patterns = str | Path | Sequence[str | Path]


def evaluate(
    model: Path | str,
    shards: Patterns,
    *,
    skip_corrupt: bool = False,
    labelled_only: bool = False,
    threads: int = 0,
    batch_size: int = BATCH_SIZE,
    fill_up: int = 0,
    on_progress: OnProgress = silent,
) -> dict[str, float]:
    """Measure a model on labelled shards.

    Arguments:
        model: a packed file, or a member: its folder or file.
        shards: TFRecord files, folders of them, caches, or globs; one or several.
        skip_corrupt: skip damaged records.
        labelled_only: skip videos without a label. By default they count as videos that no label fits.
        threads: for ONNX Runtime; 0 means one per core.
        batch_size: videos in a batch. Up to four batches are computed at once.
        fill_up: S, frames shown of each video, for comparison with the original (see `load`). 0 shows every frame once.
        on_progress: called a few times a second.

    Returns:
        `gap`, `map`, `hit_at_1`, `perr`, `videos`, `unlabelled`, and what was skipped.

    Raises:
        DataError: no shard is found, or a record is damaged or does not fit the model.
        ModelFileError: the model cannot be read.
    """
    return distributed.on_all_ranks(
        distributed_jobs.measure,
        Path(model),
        _expanded(shards),
        skip_corrupt,
        threads,
        fill_up,
        batch_size,
        labelled_only=labelled_only,
        rank_0_only={"on_count": counter(on_progress, "evaluating", "videos")},
    )


def predict(
    model: Path | str,
    shards: Patterns,
    output: Path | str,
    *,
    top_k: int = 20,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    threads: int = 0,
    batch_size: int = BATCH_SIZE,
    fill_up: int = 0,
    on_progress: OnProgress = silent,
) -> Written:
    """Write a model's most probable labels of every video in some shards. Resumes where an earlier call was stopped.

    Arguments:
        output: a .csv, .parquet or .jsonl file.
        top_k: labels written for each video.
        overwrite: replace an existing file.
        For the others see `evaluate`.

    Returns:
        How many videos were written, what was skipped, and how many shards an earlier call had finished.

    Raises:
        DataError, ModelFileError: as `evaluate`.
        OutputError: the file exists, cannot be written, or another process writes it.
    """
    return distributed.on_all_ranks(
        distributed_jobs.predict,
        Path(model),
        _expanded(shards),
        Path(output),
        top_k,
        skip_corrupt,
        overwrite,
        threads,
        fill_up,
        batch_size,
        rank_0_only={"on_count": counter(on_progress, "predicting", "videos")},
    )


def _expanded(shards: Patterns) -> list[Path]:
    return expand_shards([shards] if isinstance(shards, str | Path) else shards, log.warning)
