"""What can be known to be wrong with a recipe and its shards before the first training step.

Each check raises the error that says what is wrong: RecipeError, DataError or BudgetError.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vidfit import distributed
from vidfit.errors import BudgetError, DataError, RecipeError
from vidfit.features.loader import Batches
from vidfit.features.shards import read_videos
from vidfit.features.spec import FeatureSpec, Video, Vocabulary
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.models.classifier import FrameClassifier
from vidfit.recipe import MemberConfig, PackConfig
from vidfit.sizes import format_size, parse_size
from vidfit.training.distillation import DistillConfig, SoftLabels, SoftTargets, check_names


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
            raise SoftTargets(soft_labels, 1).incomplete([first], batches)


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
