"""Work on many shards that all ranks share: each rank loads the model and takes some of the shards.

Run these with `distributed.on_all_ranks`. Without torchrun they are plain functions. A rank takes whole shards, so with
fewer shards than ranks some ranks have nothing to do. The result is bit for bit the same with any number of ranks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidfit.errors import ModelFileError
from vidfit.evaluation.evaluate import count_levels, evaluate, evaluate_labels
from vidfit.evaluation.thresholds import DEFAULT, choose
from vidfit.features.skipped import Skipped
from vidfit.files import file_digest, make_folder
from vidfit.inference.predictor import BATCH_SIZE, load
from vidfit.inference.resume import Written, predict_to_file
from vidfit.progress import OnCount, uncounted
from vidfit.training.checkpoint import member_file
from vidfit.training.soft_labels import label_shards


def measure(
    model: Path,
    shards: Sequence[Path],
    skip_corrupt: bool = False,
    threads: int = 0,
    fill_up: int = 0,
    batch_size: int = BATCH_SIZE,
    labelled_only: bool = False,
    *,
    on_count: OnCount = uncounted,
) -> dict[str, float]:
    """The metrics of a model on labelled shards (see `evaluate`, `Batches` and, for the options, `load`)."""
    predictor = load(model, threads, fill_up, batch_size, parallel_batches=0)
    classes = len(predictor.vocabulary)
    batches = predictor.batches(shards, classes, skip_corrupt, labelled_only)
    return evaluate(predictor.predict_batch, batches, classes, on_count, predictor.thresholds)


def measure_labels(
    model: Path,
    shards: Sequence[Path],
    skip_corrupt: bool = False,
    labelled_only: bool = False,
    *,
    on_count: OnCount = uncounted,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Like `measure`, and also the results per label and the calibration (see `evaluate_labels`).

    A model without thresholds of its own is measured at 0.5.
    """
    predictor = load(model, parallel_batches=0)
    batches = predictor.batches(shards, len(predictor.vocabulary), skip_corrupt, labelled_only)
    thresholds_C = predictor.thresholds
    if thresholds_C is None:
        thresholds_C = np.full(len(predictor.vocabulary), DEFAULT, np.float32)
    return evaluate_labels(predictor.predict_batch, batches, predictor.vocabulary, thresholds_C, on_count)


def choose_thresholds(
    model: Path,
    shards: Sequence[Path],
    precision: float | None,
    skip_corrupt: bool = False,
    labelled_only: bool = False,
    *,
    on_count: OnCount = uncounted,
) -> np.ndarray:
    """The best threshold of each label on labelled shards, as a level uint8 `[C]` (see `evaluation/thresholds.py`)."""
    predictor = load(model, parallel_batches=0)
    classes = len(predictor.vocabulary)
    batches = predictor.batches(shards, classes, skip_corrupt, labelled_only)
    return choose(count_levels(predictor.predict_batch, batches, classes, on_count), precision)


def predict(
    model: Path,
    shards: Sequence[Path],
    output: Path,
    top_k: int,
    skip_corrupt: bool,
    overwrite: bool,
    threads: int,
    fill_up: int,
    batch_size: int,
    *,
    on_count: OnCount = uncounted,
) -> Written:
    """Write a model's best labels of every video to a file (see `predict_to_file`)."""
    predictor = load(model, threads, fill_up, batch_size, parallel_batches=0)
    origin = (file_digest(member_file(model)), fill_up)
    return predict_to_file(
        output,
        shards,
        predictor,
        origin,
        top_k,
        skip_corrupt=skip_corrupt,
        overwrite=overwrite,
        on_count=on_count,
    )


def soft_label(
    teachers: Sequence[Path],
    shards: Sequence[Path],
    directory: Path,
    top_k: int,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    threads: int = 0,
    *,
    on_count: OnCount = uncounted,
) -> tuple[int, Skipped]:
    """Write the teachers' probabilities of every video to a folder (see `label_shards`).

    Arguments:
        teachers: their model files.

    Raises:
        ModelFileError: the teachers differ in the features they read or in their labels.
    """
    loaded = {file: load(file, threads, parallel_batches=0) for file in teachers}
    first = loaded[teachers[0]]
    for file, other in loaded.items():
        if (other.spec, other.vocabulary) != (first.spec, first.vocabulary):
            raise ModelFileError(
                f"{file}: reads other features or has other labels than {teachers[0]}; teachers must agree in both"
            )
    make_folder(directory)
    return label_shards(
        shards,
        directory,
        {file: teacher.predict_batch for file, teacher in loaded.items()},
        first.vocabulary,
        top_k,
        lambda shard: first.batches([shard], skip_corrupt=skip_corrupt),
        overwrite,
        on_count,
    )
