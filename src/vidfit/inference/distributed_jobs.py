"""What all ranks do to many shards together, each with the model loaded for itself and a share of the shards.

Jobs for `ranks.together`; without ranks they are plain functions. A rank takes whole shards, so where there are fewer
of these than ranks some ranks have nothing to do. What comes out is the same, to the bit, with any number of ranks.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vidfit.errors import ModelFileError
from vidfit.evaluation.evaluate import evaluate, evaluate_labels
from vidfit.features.skipped import Skipped
from vidfit.files import file_digest, make_folder
from vidfit.inference.predictor import BATCH_SIZE, load
from vidfit.inference.resume import Written, predict_shards
from vidfit.training.checkpoint import member_file
from vidfit.training.distillation import label_shards

Show = Callable[[int, int], None]
"""Called with how much is done and, about, how much there is; rank 0 alone has one that shows anything."""


def _silent(done: int, total: int) -> None:
    pass


def measure(
    model: Path,
    shards: Sequence[Path],
    skip_corrupt: bool = False,
    threads: int = 0,
    fill_up: int = 0,
    batch_size: int = BATCH_SIZE,
    labelled_only: bool = False,
    *,
    show: Show = _silent,
) -> dict[str, float]:
    """The metrics of a model on labelled shards (see `evaluate`, `Batches` and, for the options, `load`)."""
    predictor = load(model, threads, fill_up, batch_size, at_once=0)
    classes = len(predictor.vocabulary)
    batches = predictor.batches(shards, classes, skip_corrupt, labelled_only)
    return evaluate(predictor.predict_batch, batches, classes, show)


def measure_labels(
    model: Path,
    shards: Sequence[Path],
    skip_corrupt: bool = False,
    labelled_only: bool = False,
    *,
    show: Show = _silent,
) -> tuple[dict[str, float], dict[str, Any]]:
    """As `measure`, and each label and the probabilities (see `evaluate_labels`)."""
    predictor = load(model, at_once=0)
    batches = predictor.batches(shards, len(predictor.vocabulary), skip_corrupt, labelled_only)
    return evaluate_labels(predictor.predict_batch, batches, predictor.vocabulary, show)


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
    show: Show = _silent,
) -> Written:
    """A model's best labels of every video, in a file (see `predict_shards`)."""
    predictor = load(model, threads, fill_up, batch_size, at_once=0)
    origin = (file_digest(member_file(model)), fill_up)
    return predict_shards(
        output, shards, predictor, origin, top_k, skip_corrupt=skip_corrupt, overwrite=overwrite, show=show
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
    show: Show = _silent,
) -> tuple[int, Skipped]:
    """What teachers say of every video, in a folder (see `label_shards`).

    Arguments:
        teachers: their files.

    Raises:
        ModelFileError: they differ in the features they read or in their labels.
    """
    loaded = {file: load(file, threads, at_once=0) for file in teachers}
    first = loaded[teachers[0]]
    for file, other in loaded.items():
        if (other.spec, other.vocabulary) != (first.spec, first.vocabulary):
            raise ModelFileError(
                f"{file}: knows other features or labels than {teachers[0]}; teachers must agree in both"
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
        show,
    )
