"""Which trainings a recipe asks for, and what each is trained from.

A member may have teachers: members of the generation before it, which are trained first and label its training videos.
So a recipe of three members and two generations asks for up to nine trainings. Each has a folder of its own:

    RUN/members/NAME/                               a member
    RUN/distillation/G/teachers/NAME/[fold-F/]      a teacher of generation G
    RUN/distillation/G/soft-labels/[NAME/]          what generation G says of the training videos

What a training follows from is its *lineage*: settings, shards and its teachers' lineages. Two trainings with the same
lineage give the same weights, so one that is recorded as done is not repeated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vidfit.recipe import Recipe
from vidfit.run_data import RunData
from vidfit.stages import digest

# Keys of a member that do not change what it is. Files count by their content.
_NO_MATTER: Final[Any] = {
    "training": {"checkpoint_minutes": True, "on_nan": True, "start": True, "segments": {"table": True}}
}


@dataclass(frozen=True)
class TrainingJob:
    """One training of a run."""

    name: str
    """The member of the recipe that says how to train."""
    generation: int
    """0 learns from labels (or given soft labels). Each later one also learns from the generation before it."""
    fold: int | None = None
    """The part of the training shards that it does not see. None: it sees all."""


class Lineage:
    """The trainings of a recipe.

    Arguments:
        recipe: what to do.
        data: its data, checked.
        names: the members that are to be trained.
    """

    def __init__(self, recipe: Recipe, data: RunData, names: Sequence[str]) -> None:
        self._recipe, self._data, self._names = recipe, data, names
        self._distill = recipe.distill
        self.generations = (recipe.distill and recipe.distill.generations) or 0
        self._digests: dict[TrainingJob, str] = {}

    def member(self, name: str) -> TrainingJob:
        """The training whose result is packed."""
        return TrainingJob(name, self.generations)

    def teachers(self, student: TrainingJob) -> list[TrainingJob]:
        """The trainings whose soft labels a student learns from."""
        if self._distill is None or student.generation == 0:
            return []
        named = self._distill.teachers or list(self._recipe.pack.members or self._recipe.members)
        folds = [None] if self._distill.folds is None else range(self._distill.folds)
        return [
            TrainingJob(name, student.generation - 1, fold)
            for name in ([student.name] if named == "own" else named)
            for fold in folds
        ]

    def jobs(self) -> Iterator[TrainingJob]:
        """All trainings: the teachers, generation by generation, then the members."""
        yield from self.all_teachers()
        yield from map(self.member, self._names)

    def all_teachers(self) -> Iterator[TrainingJob]:
        """The teachers, generation by generation."""
        own = self._distill is not None and self._distill.teachers == "own"
        for generation in range(self.generations):
            for student in self._names if own else self._names[:1]:
                yield from self.teachers(TrainingJob(student, generation + 1))

    def title(self, job: TrainingJob) -> str:
        """What a person reads: `netvlad`, `generation 0 netvlad fold 1`."""
        if job.generation == self.generations:
            return job.name
        fold = "" if job.fold is None else f" fold {job.fold}"
        return f"generation {job.generation} {job.name}{fold}"

    def folder(self, job: TrainingJob) -> Path:
        """Its folder, from the run folder on."""
        if job.generation == self.generations:
            return Path("members", job.name)
        teachers = Path("distillation", str(job.generation), "teachers", job.name)
        return teachers if job.fold is None else teachers / f"fold-{job.fold}"

    def shards(self, fold: int | None, outside: bool) -> list[Path]:
        """Training shards of a fold, or all others. Without folds, every shard."""
        shards = self._data.shards["train"]
        if fold is None:
            return shards
        assert self._distill is not None
        assert self._distill.folds is not None
        return [shard for index, shard in enumerate(shards) if (index % self._distill.folds == fold) != outside]

    def of(self, job: TrainingJob) -> dict[str, Any]:
        """What a training follows from, in values that JSON has."""
        config, distill = self._recipe.members[job.name], self._distill
        lineage = {
            # Only what differs from the defaults: a key added one day must not undo what was trained without it.
            # Checkpointing and on_nan change nothing in a training that goes well.
            "member": config.model_dump(exclude_defaults=True, exclude=_NO_MATTER),
            "family": config.family.type,
            "head": config.head.type if config.head else None,
            "seed": self._recipe.seed,
            "train": self._data.digests(self.shards(job.fold, outside=True)),
            "validation": self._data.digests(self._data.shards["validation"]),
            "vocabulary": self._data.vocabulary.names,
        }
        training = config.training
        for key, path in (("start", training.start), ("table", training.segments and training.segments.table)):
            if path:
                lineage[key] = self._data.files[path]
        if self._data.labelled_only:
            lineage["unlabelled"] = "skip"
        if distill and distill.soft_labels:
            lineage["soft labels"] = [distill.weight, self._data.soft_labels]
        if job.generation:
            assert distill is not None
            lineage["distill"] = [distill.weight, distill.top_k, self.of_teachers(job)]
        return lineage

    def of_teachers(self, student: TrainingJob) -> list[tuple[str, str]]:
        """Title and digest of each of a student's teachers."""
        return [(self.title(teacher), self._digest(teacher)) for teacher in self.teachers(student)]

    def _digest(self, job: TrainingJob) -> str:
        # Kept, because a teacher has many students.
        if job not in self._digests:
            self._digests[job] = digest(self.of(job))
        return self._digests[job]
