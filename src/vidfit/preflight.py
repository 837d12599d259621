"""What a recipe's data are, and whatever is wrong with them or with the recipe, before the first training step.

Each check raises the error that says what is wrong: RecipeError, DataError or BudgetError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidfit import distributed
from vidfit.errors import BudgetError, DataError, RecipeError
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.spec import FeatureSpec, Video, Vocabulary
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.models.classifier import FrameClassifier
from vidfit.recipe import MemberConfig, PackConfig, Recipe
from vidfit.search.validation import BATCH_SIZE, Validation
from vidfit.sizes import format_size, parse_size
from vidfit.training.distillation import (
    DistillConfig,
    SoftLabels,
    Teacher,
    check_ids,
    check_names,
    read_soft_labels_info,
    soft_labels_files,
)


@dataclass(frozen=True)
class Inputs:
    """What a recipe's `data` holds, and what follows for its members."""

    shards: dict[str, list[Path]]
    """Of `train`, `validation` and `eval`."""
    vocabulary: Vocabulary
    spec: FeatureSpec
    skip_corrupt: bool
    parameters: dict[str, int]
    """Weights of each member."""
    soft_labels: list[dict[str, Any]]
    """What each file of given soft labels was made from."""

    def batches(self, shards: Sequence[Path], batch_size: int = BATCH_SIZE, **options: Any) -> Batches:
        """Batches of some of the shards; for the options see `Batches`."""
        return Batches(shards, self.spec, len(self.vocabulary), batch_size, skip_corrupt=self.skip_corrupt, **options)


def check(recipe: Recipe) -> Inputs:
    """Read what a recipe names and check all that can be checked before training.

    Raises:
        DataError: shards or the vocabulary are missing, empty, damaged or do not fit each other.
        RecipeError: a member's options do not fit the shards.
        BudgetError: what is to be packed cannot fit.
    """
    data, distill = recipe.data, recipe.distill
    shards = {name: expand_shards(getattr(data, name)) for name in ("train", "validation", "eval")}
    check_disjoint(shards)
    vocabulary = Vocabulary.from_csv(Path(data.vocabulary))
    spec = infer_spec(shards["train"], data.skip_corrupt)
    soft_labels = []
    if distill and distill.soft_labels:
        folder = Path(distill.soft_labels)
        batches = Batches(shards["train"], spec, len(vocabulary), BATCH_SIZE, skip_corrupt=data.skip_corrupt)
        check_soft_labels(folder, batches, vocabulary)
        soft_labels = [read_soft_labels_info(file).model_dump() for file in soft_labels_files(folder)]
    if distill:
        check_distillation(distill, shards["train"])
    for which, paths in shards.items():
        check_labelled(which, paths, spec, len(vocabulary), data.skip_corrupt)
    parameters = {
        name: count_parameters(name, config, spec, len(vocabulary)) for name, config in recipe.members.items()
    }
    check_budget(recipe.pack, parameters)
    check_ranks(recipe.members)
    if not recipe.pack.members or needs_narrow_weights(recipe.pack, parameters):
        Validation(shards["validation"], spec, len(vocabulary), data.skip_corrupt)
    return Inputs(shards, vocabulary, spec, data.skip_corrupt, parameters, soft_labels)


def needs_narrow_weights(pack: PackConfig, parameters: Mapping[str, int]) -> bool:
    """Whether the members to be packed are above the budget with a byte for each weight."""
    return sum(parameters[name] for name in pack.members or ()) > parse_size(pack.budget)


def check_disjoint(shards: Mapping[str, Sequence[Path]]) -> None:
    """No shard is in two of the three sets `train`, `validation` and `eval`."""
    for first, second in (("train", "validation"), ("train", "eval"), ("validation", "eval")):
        common = {path.resolve() for path in shards[first]} & {path.resolve() for path in shards[second]}
        if common:
            raise DataError(f"{min(common)}: is in both data.{first} and data.{second}; a shard may be in one only")


def check_soft_labels(folder: Path, batches: Batches, vocabulary: Vocabulary) -> None:
    """Given soft labels are there for the first video of each training shard, `batches`' own."""
    soft_labels = SoftLabels(folder, vocabulary.names)
    for shard in batches.shards:
        videos = read_videos(shard, batches.spec, batches.classes)
        first = next((video.id for video in videos if isinstance(video, Video)), None)
        if first is not None and soft_labels.missing([first]):
            raise Teacher(soft_labels, 1).incomplete([first], batches)


def check_distillation(distill: DistillConfig, shards: Sequence[Path]) -> None:
    """The training shards can have soft labels of their own, and are enough for the folds."""
    if distill.generations:
        check_names(shards)
    folds = distill.folds or 1
    if folds > len(shards):
        raise RecipeError(
            f"distill.folds: a fold is a part of the shards, and of {len(shards)} training shards "
            f"there are not {folds} parts"
        )


def check_ids_of_shards(shards: Sequence[Path]) -> None:
    """Each training video has an id of its own. Reads all shards, so do it once, before the teachers are trained."""
    read = ((shard, [video.id for video in read_videos(shard) if isinstance(video, Video)]) for shard in shards)
    check_ids([(shard, np.array([id.encode() for id in ids], bytes)) for shard, ids in read])


def check_labelled(which: str, shards: Sequence[Path], spec: FeatureSpec, classes: int, skip_corrupt: bool) -> None:
    """Some video of the set `which` has a label: reads up to the first, in most corpora one record."""
    for shard in shards:
        for video in read_videos(shard, spec, classes):
            if isinstance(video, CorruptRecordError):
                if not skip_corrupt:
                    raise video
            elif len(video.labels):
                return
    raise DataError(f"data.{which}: none of its videos has a label; give labelled shards")


def count_parameters(name: str, config: MemberConfig, spec: FeatureSpec, classes: int) -> int:
    """Weights of a member, built without memory; what its options cannot do with these shards shows here."""
    try:
        with torch.device("meta"):
            classifier = FrameClassifier(config, spec, classes)
    except RecipeError as error:
        raise RecipeError(f"members.{name}.family.{error}") from error
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


def check_ranks(members: Mapping[str, MemberConfig]) -> None:
    """A batch can be divided among the ranks."""
    for name, member in members.items():
        size = member.training.batch_size
        if size % distributed.available():
            raise RecipeError(
                f"members.{name}.training.batch_size: {size} videos cannot be divided among {distributed.available()} "
                "processes; give a multiple of their number, for a batch is that of all of them together"
            )
