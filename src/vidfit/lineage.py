"""Which trainings a recipe asks for, and what each is trained from.

A member may have teachers: members of the generation before it, which are trained first and label its training videos.
So a recipe of three members and two generations asks for up to nine trainings. Each has a folder of its own:

    RUN/members/NAME/                               a member
    RUN/distillation/G/teachers/NAME/[fold-F/]      a teacher of generation G
    RUN/distillation/G/soft-labels/[NAME/]          what generation G says of the training videos

What a training follows from is its *lineage*: settings, shards and its teachers' lineages. Two trainings with the same
lineage give the same weights, so one that is recorded as done is not repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from vidfit.features.survey import digests
from vidfit.recipe import Recipe
from vidfit.run_data import RunData
from vidfit.stages import digest

# Keys of a member that are no part of its lineage. Checkpointing, on_nan and log change nothing in a training that goes
# well. Files count by their content.
_NOT_IN_LINEAGE: Final[Any] = {
    "training": {"checkpoint_minutes": True, "on_nan": True, "log": True, "start": True, "segments": {"table": True}}
}


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One training of a run."""

    name: str
    """The member of the recipe that says how to train."""
    generation: int
    """0 learns from labels (or given soft labels). Each later one also learns from the generation before it."""
    fold: int | None
    """The part of the training shards that it does not see. None: it sees all."""
    title: str
    """What a person reads: `netvlad`, `generation 0 netvlad fold 1`."""
    folder: Path
    """Relative to the run folder."""
    teachers: list["TrainingJob"]
    """They label its training videos."""
    shards: list[Path]
    """Those it learns from."""
    shards_to_label: list[Path]
    """Those it labels if it is a teacher: the fold that it has not seen, or all."""
    lineage: dict[str, Any]
    """What it follows from, in values that JSON has."""

    @cached_property
    def digest(self) -> str:
        """Of its lineage."""
        return digest(self.lineage)


class Trainings(NamedTuple):
    """The trainings of a run."""

    members: dict[str, TrainingJob]
    teachers: list[TrainingJob]
    """Generation by generation."""


def plan_trainings(recipe: Recipe, data: RunData, names: Sequence[str]) -> Trainings:
    """Which trainings a recipe asks for.

    Arguments:
        recipe: what to do.
        data: its data, checked.
        names: the members that are to be trained.
    """
    distill = recipe.distill
    last = (distill and distill.generations) or 0
    planned: dict[tuple[str, int, int | None], TrainingJob] = {}

    def plan(name: str, generation: int, fold: int | None) -> TrainingJob:
        """A job after its teachers. Students may share a teacher."""
        if (name, generation, fold) not in planned:
            teachers = []
            if distill and generation:
                named = distill.teachers or list(recipe.pack.members or recipe.members)
                folds = [None] if distill.folds is None else range(distill.folds)
                teachers = [
                    plan(teacher, generation - 1, own)
                    for teacher in ([name] if named == "own" else named)
                    for own in folds
                ]
            planned[name, generation, fold] = _job(recipe, data, name, generation, fold, teachers)
        return planned[name, generation, fold]

    members = {name: plan(name, last, None) for name in names}
    teachers = [job for job in planned.values() if job.generation < last]
    return Trainings(members, sorted(teachers, key=lambda job: job.generation))


def _job(
    recipe: Recipe, data: RunData, name: str, generation: int, fold: int | None, teachers: list[TrainingJob]
) -> TrainingJob:
    title, folder = name, Path("members", name)
    if generation < ((recipe.distill and recipe.distill.generations) or 0):
        title, folder = f"generation {generation} {name}", Path("distillation", str(generation), "teachers", name)
    shards = shards_to_label = data.shards["train"]
    if fold is not None:
        assert recipe.distill is not None
        assert recipe.distill.folds is not None
        title, folder = f"{title} fold {fold}", folder / f"fold-{fold}"
        shards, shards_to_label = (
            [shard for index, shard in enumerate(shards) if (index % recipe.distill.folds == fold) is unseen]
            for unseen in (False, True)
        )
    lineage = _lineage(recipe, data, name, shards, teachers)
    return TrainingJob(name, generation, fold, title, folder, teachers, shards, shards_to_label, lineage)


def _lineage(
    recipe: Recipe, data: RunData, name: str, shards: Sequence[Path], teachers: Sequence[TrainingJob]
) -> dict[str, Any]:
    config, distill = recipe.members[name], recipe.distill
    lineage = {
        # Only what differs from the defaults: a key added one day must not undo what was trained without it.
        "member": config.model_dump(exclude_defaults=True, exclude=_NOT_IN_LINEAGE),
        "family": config.family.type,
        "head": config.head.type if config.head else None,
        "seed": recipe.seed,
        "train": digests(shards, data.surveys),
        "validation": digests(data.shards["validation"], data.surveys),
        "vocabulary": data.vocabulary.names,
    }
    training = config.training
    for key, path in (("start", training.start), ("table", training.segments and training.segments.table)):
        if path:
            lineage[key] = data.files[path]
    if data.labelled_only:
        lineage["unlabelled"] = "skip"
    if distill and distill.soft_labels:
        lineage["soft labels"] = [distill.weight, data.soft_labels]
    if distill and teachers:
        lineage["distill"] = [distill.weight, distill.top_k, [(job.title, job.digest) for job in teachers]]
    return lineage
