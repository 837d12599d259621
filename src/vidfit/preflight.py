"""Checks of a recipe against its data, before the first training step.

Each check raises a RecipeError, DataError, ModelFileError or BudgetError. Mistakes in the data alone are found where
they are read (run_data.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidfit import distributed
from vidfit.errors import BudgetError, RecipeError
from vidfit.features.clips import Clips
from vidfit.features.shards import read_videos
from vidfit.features.spec import FeatureSpec, Video
from vidfit.files import file_digest
from vidfit.inference.packed_thresholds import read_thresholds
from vidfit.models.classifier import VideoClassifier
from vidfit.recipe import MemberConfig, PackConfig, Recipe
from vidfit.run_data import RunData
from vidfit.search.validation import Validation
from vidfit.sizes import format_size, parse_size
from vidfit.training.checkpoint import member_file, starting_weights
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import DistillConfig, SoftTargets
from vidfit.training.soft_labels import SoftLabels, check_ids, check_names, read_soft_labels_info, soft_labels_files
from vidfit.training.tracking import check_tensorboard
from vidfit.videos.extractor import steps_per_second
from vidfit.videos.sources import read_intervals


def check(recipe: Recipe, data: RunData) -> RunData:
    """Check all that can be checked before training; returns the data, with what follows for the recipe's members.

    Raises:
        DataError: soft labels, rated segments or thresholds are missing or do not fit the shards.
        RecipeError: a member's options, the search or the folds do not fit the shards.
        ModelFileError: a member to start from is missing or does not fit.
        BudgetError: what is to be packed cannot fit.
        VidfitError: a package that a member asks for is missing.
    """
    names = data.vocabulary.names
    parameters = {
        name: count_parameters(name, member, data.spec, len(names)) for name, member in recipe.members.items()
    }
    check_budget(recipe.pack, parameters)
    check_ranks(recipe.members)
    if not recipe.pack.members or needs_narrow_weights(recipe.pack, parameters):
        check_search(data)
    if recipe.pack.thresholds:
        read_thresholds(Path(recipe.pack.thresholds), names)
    soft_labels = check_distillation(recipe.distill, data) if recipe.distill else []
    clips = {}
    for name, member in recipe.members.items():
        check_start(name, member, data)
        if member.training.log:
            check_tensorboard()
        if member.training.segments:
            clips[name] = check_segments(name, member.training, data)
    return replace(data, parameters=parameters, clips=clips, soft_labels=soft_labels, files=_digests_of_files(recipe))


def check_start(name: str, member: MemberConfig, data: RunData) -> None:
    """The member that a training starts from has the same features, labels and sizes."""
    if member.training.start:
        info = data.member_info(name, member)
        with torch.device("meta"):
            model = info.build()
        starting_weights(member.training.start, info, model)


def check_segments(name: str, training: TrainingConfig, data: RunData) -> Clips:
    """There are rated segments to learn from, and to choose the best checkpoint by; returns how they are cut.

    Raises:
        DataError: there are none, or the table of intervals is wrong.
        RecipeError: the shards have one frame per video.
    """
    config, names = training.segments, data.vocabulary.names
    assert config is not None
    if data.spec.level == "video":
        raise RecipeError(f"members.{name}.training.segments: these shards have one frame per video; remove segments")
    rate = steps_per_second(data.extractor, [*data.shards["train"], *data.shards["validation"]])
    intervals = read_intervals(Path(config.table), names) if config.table else None
    context = None if config.context == "video" else config.context
    clips = Clips(context, rate, len(names), intervals, config.seconds, config.table or "")
    for which in ("train", "validation"):
        if data.shards[which]:
            # Raises where there is none.
            next(iter(data.batches(data.shards[which], 1, clips=clips)))
    return clips


def _digests_of_files(recipe: Recipe) -> dict[str, str]:
    trainings = [member.training for member in recipe.members.values()]
    starts = {training.start: member_file(training.start) for training in trainings if training.start}
    tables = {table: Path(table) for own in trainings if own.segments and (table := own.segments.table)}
    thresholds = {table: Path(table) for table in [recipe.pack.thresholds] if table}
    return {path: file_digest(file) for path, file in {**starts, **tables, **thresholds}.items()}


def needs_narrow_weights(pack: PackConfig, parameters: Mapping[str, int]) -> bool:
    """Whether the members named in the recipe exceed the budget in 8 bits."""
    return sum(parameters[name] for name in pack.members or ()) > parse_size(pack.budget)


def check_distillation(distill: DistillConfig, data: RunData) -> list[dict[str, Any]]:
    """The training shards have given soft labels, or can have their own, and are enough for the folds.

    Returns:
        What each file of given soft labels was made from.
    """
    shards = data.shards["train"]
    if distill.soft_labels:
        folder = Path(distill.soft_labels)
        check_soft_labels(folder, data)
        return [read_soft_labels_info(file).model_dump() for file in soft_labels_files(folder)]
    check_names(shards)
    if (distill.folds or 1) > len(shards):
        raise RecipeError(
            f"distill.folds: a fold is a part of the shards, and of {len(shards)} training shards "
            f"there are not {distill.folds} parts"
        )
    return []


def check_soft_labels(folder: Path, data: RunData) -> None:
    """Given soft labels are there for the first video of each training shard."""
    soft_labels = SoftLabels(folder, data.vocabulary.names)
    for shard in data.shards["train"]:
        videos = read_videos(shard, data.spec, len(data.vocabulary))
        first = next((video.id for video in videos if isinstance(video, Video)), None)
        if first is not None and soft_labels.missing([first]):
            raise SoftTargets(soft_labels, 1).incomplete([first], data.batches(data.shards["train"]))


def check_ids_of_shards(shards: Sequence[Path]) -> None:
    """Each training video has an id of its own. Reads all shards, so do it once, before the teachers are trained."""
    read = ((shard, [video.id for video in read_videos(shard) if isinstance(video, Video)]) for shard in shards)
    check_ids([(shard, np.array([id.encode() for id in ids], bytes)) for shard, ids in read])


def count_parameters(name: str, config: MemberConfig, spec: FeatureSpec, classes: int) -> int:
    """Weights of a member, built without memory; what its options cannot do here shows here."""
    try:
        with torch.device("meta"):
            classifier = VideoClassifier(config, spec, classes)
    except RecipeError as error:
        raise RecipeError(f"members.{name}.family.{error}") from error
    if config.training.precision == "bfloat16" and classifier.recurrent and not torch.cuda.is_available():
        raise RecipeError(
            f"members.{name}.training.precision: lstm, gru and encoder.cells have no bfloat16 on a CPU; use float32"
        )
    return sum(parameter.numel() for parameter in classifier.parameters())


def check_budget(pack: PackConfig, parameters: Mapping[str, int]) -> None:
    """What cannot fit need not be trained: a weight takes a quarter of a byte at least.

    Arguments:
        pack: budget and, maybe, which members are to be in the file.
        parameters: weights of every member, by name.
    """
    budget = parse_size(pack.budget)
    if not pack.members:
        name, weights = min(parameters.items(), key=lambda item: item[1])
        if weights // 4 > budget:
            raise BudgetError(
                f"pack.budget: the smallest member, {name}, takes {format_size(weights // 4)} at least, more than "
                f"{format_size(budget)}: add a smaller one or raise the budget"
            )
        return
    bytes_needed = {name: parameters[name] // 4 for name in pack.members}
    if sum(bytes_needed.values()) > budget:
        each = ", ".join(f"{name} {format_size(size)}" for name, size in bytes_needed.items())
        raise BudgetError(
            f"pack.budget: the packed members take {format_size(sum(bytes_needed.values()))} at least ({each}), "
            f"more than {format_size(budget)}: leave a member out, make one smaller or raise the budget"
        )


def check_search(data: RunData) -> None:
    """There are videos to choose members and bit widths by."""
    if not data.shards["validation"]:
        raise RecipeError(
            "pack.budget: the members take more in 8 bits, and a search for narrower weights needs data.validation; "
            "give it, or raise the budget"
        )
    Validation(data.batches(data.shards["validation"]))


def check_ranks(members: Mapping[str, MemberConfig]) -> None:
    """A batch can be divided among the ranks."""
    for name, member in members.items():
        size, ranks = member.training.batch_size, distributed.available_ranks()
        if size % ranks:
            raise RecipeError(
                f"members.{name}.training.batch_size: {size} videos cannot be divided among {ranks} processes; "
                "give a multiple of their number, because all of them share each batch"
            )
