"""The JSON files of a run folder that the page is made from, read and checked.

Only `recipe.yaml` and `stages.json` must exist. Fields that older runs did not write may be missing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TypeVar

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter

from vidfit.errors import OutputError, reason
from vidfit.report.packed import PackedDetails, read_packed

Document = TypeVar("Document", bound=BaseModel)


class TensorSummary(BaseModel):
    """A quantised tensor of the packed file."""

    name: str
    shape: list[int]
    scheme: str | None = Field(default=None, validation_alias=AliasChoices("scheme", "grid"))
    """Bit width and granularity, such as `4/channel`. vidfit 0.1 called it grid."""
    bytes: int


class PackedMemberSummary(BaseModel):
    """A member of the packed file, or of a point of the frontier."""

    name: str
    family: str | None = None
    weight: float
    bits: float
    bytes: int | None = None
    tensors: list[TensorSummary] | None = None
    """Quantised tensors; None in runs of older versions."""


class PackedSummary(BaseModel):
    """The packed file, measured on the eval shards."""

    path: str
    bytes: int
    budget: int | None = None
    members: list[PackedMemberSummary]
    gap: float | None
    """This and the other scores are None without eval shards."""
    map: float | None
    hit_at_1: float | None
    perr: float | None
    micro_precision: float | None = None
    micro_recall: float | None = None
    micro_f1: float | None = None
    macro_f1: float | None = None
    """At the thresholds of the file."""
    accuracy: float | None = None
    top_5_accuracy: float | None = None
    """If each video has exactly one label."""


class MemberSummary(BaseModel):
    """A member. Validation chose its checkpoint; the other scores are on the eval shards. None without such shards."""

    name: str
    family: str
    parameters: int
    step: int
    gap_validation: float | None
    gap: float | None
    map: float | None
    gap_quantized: float | None
    bytes_float32: int
    bytes_quantized: int


class TeacherSummary(BaseModel):
    """A training of an earlier generation."""

    name: str
    generation: int
    fold: int | None = None
    gap_validation: float | None = None


class DataSummary(BaseModel):
    """The videos and labels of a run."""

    videos: dict[str, int]
    """Of `train`, `validation` and `eval`."""
    labels: int
    rare: int
    """Labels with fewer than 10 training videos."""
    rare_labels: list[str] = []
    """Names of some of them."""


class Summary(BaseModel):
    """`summary.json`."""

    data: DataSummary | None = None
    members: list[MemberSummary]
    teachers: list[TeacherSummary] = []
    packed: PackedSummary

    def gaps_of_teachers(self, member: str) -> list[float]:
        """Validation GAP of each earlier generation of a member. Folds are averaged."""
        gaps: dict[int, list[float]] = {}
        for teacher in self.teachers:
            if teacher.name == member and teacher.gap_validation is not None:
                gaps.setdefault(teacher.generation, []).append(teacher.gap_validation)
        return [mean(gaps[generation]) for generation in sorted(gaps)]


class FrontierPoint(BaseModel):
    """The best ensemble for a number of bytes."""

    bytes: int
    gap: float | None = None
    """On the eval shards, from a written file; None if none was written."""
    gap_selection: float | None = None
    gap_confirmation: float | None = None
    """On the half of the validation videos that did not select it."""
    members: list[PackedMemberSummary]
    run: str = ""
    models: str = ""
    """For pictures and sounds, if the file carries them; `run` is that of its members."""


class BaselinePoint(BaseModel):
    """What a simpler choice reaches with a number of bytes."""

    bytes: int
    gap: float | None


class Frontier(BaseModel):
    """`frontier.json`."""

    points: list[FrontierPoint]
    baselines: dict[str, list[BaselinePoint]] = {}


class Label(BaseModel):
    """A label on the eval shards. Average precision and recall are None if no video has it."""

    name: str
    positives: int
    average_precision: float | None
    threshold: float | None = None
    precision: float | None = None
    """At the threshold; None if it was given to no video."""
    recall: float | None = None


class Bin(BaseModel):
    """The (video, label) pairs with a probability between `low` and `high`."""

    low: float
    high: float
    mean: float
    hits: int
    count: int


class Labels(BaseModel):
    """`labels.json`."""

    labels: list[Label]
    reliability: list[Bin]
    ece: float


class LogLine(BaseModel):
    """A line of a `log.jsonl`: one validation."""

    step: int
    loss: float
    gap: float | None = None
    """None without validation videos."""
    averaged: bool = False


class TriedFamily(BaseModel):
    """The kind of a member."""

    type: str


class TriedTraining(BaseModel):
    """How a member was trained."""

    solver: str = "adam"
    steps: int
    batch_size: int | None = None


class TriedMember(BaseModel):
    """The part of a member's settings that the page shows."""

    family: TriedFamily
    training: TriedTraining


class Tried(BaseModel):
    """A member that `vidfit fit` tried."""

    member: TriedMember
    trainings: int = 1
    """More than one with cross-validation: each without a part of the videos."""
    seconds: float
    gap_of_best: float | None = None
    """GAP of the best choice of members so far. None if the fit was stopped before it was known."""


class FitDecisions(BaseModel):
    """Of labels given at the thresholds, on videos that the models had not seen. None where it was not measured."""

    precision: float | None = None
    recall: float | None = None


class FitSummary(BaseModel):
    """`fit.json`."""

    tried: dict[str, Tried]
    """By name, in the order of trying."""
    untried: list[str] = []
    """Members that there was no time for."""
    decisions: FitDecisions = FitDecisions()
    rounds: list[str] = []
    """Members that vary an earlier one."""
    seconds: float = 0.0
    """Of the time limit, used so far."""
    limit: float | None = None
    """Seconds."""
    parts: int = 0
    """Of the videos, to cross-validate. 0 if they were enough to set some apart."""

    @property
    def gap(self) -> float | None:
        """GAP of the last choice of members, on videos that they were not trained on."""
        known = [it.gap_of_best for it in self.tried.values() if it.gap_of_best is not None]
        return known[-1] if known else None

    def weights(self, packed: Sequence[PackedMemberSummary]) -> dict[str, float]:
        """Weight in the packed file by name of a tried member; those trained from several seeds have one."""
        found: dict[str, float] = {}
        for member in packed:
            name = member.name if member.name in self.tried else re.sub(r"-seed-\d+$", "", member.name)
            found[name] = found.get(name, 0.0) + member.weight
        return found


@dataclass(frozen=True)
class RunFolder:
    """All that the page shows."""

    path: Path
    recipe: str
    summary: Summary | None
    labels: Labels | None
    frontier: Frontier | None
    logs: dict[str, list[LogLine]]
    """By member."""
    teacher_logs: dict[str, dict[str, list[LogLine]]]
    """By member and earlier generation: `generation 0`, `generation 0 fold 1`."""
    packed: PackedDetails | None = None
    """If the packed file is there."""
    fit: FitSummary | None = None
    """If `vidfit fit` made the run."""

    @property
    def command(self) -> str:
        """The command that made the run, and resumes it."""
        return "vidfit fit" if self.fit else "vidfit run"

    @property
    def names(self) -> list[str]:
        """All members, in the recipe's order if the run is finished."""
        in_summary = [member.name for member in self.summary.members] if self.summary else []
        points = self.frontier.points if self.frontier else []
        on_frontier = [member.name for point in points for member in point.members]
        return list(dict.fromkeys([*in_summary, *self.logs, *on_frontier, *self.teacher_logs]))

    @property
    def lacks_validation(self) -> bool:
        """Whether the run is finished, and had no validation shards."""
        return self.summary is not None and all(it.gap_validation is None for it in self.summary.members)

    @property
    def lacks_eval(self) -> bool:
        """Whether the run is finished, and had no eval shards."""
        return self.summary is not None and self.summary.packed.gap is None


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        OutputError: it is not a run folder, or one of its files cannot be read.
        ModelFileError: the packed file cannot be read.
    """
    for name in ("recipe.yaml", "stages.json"):
        if not (path / name).is_file():
            raise OutputError(f"{path}: is not a run folder (it has no {name}); give one that `vidfit run` wrote")
    teachers: dict[str, dict[str, list[LogLine]]] = {}
    for log in sorted(path.glob("distillation/*/teachers/**/log.jsonl")):
        generation, _, name, *fold = log.relative_to(path / "distillation").parts[:-1]
        title = " ".join([f"generation {generation}", *(part.replace("-", " ") for part in fold)])
        teachers.setdefault(name, {})[title] = _log(log)
    summary = _document(path / "summary.json", Summary)
    return RunFolder(
        path,
        (path / "recipe.yaml").read_text(encoding="utf-8"),
        summary,
        _document(path / "labels.json", Labels),
        _document(path / "frontier.json", Frontier),
        {log.parent.name: _log(log) for log in sorted(path.glob("members/*/log.jsonl"))},
        teachers,
        summary and read_packed(path / summary.packed.path),
        _fit(path),
    )


def _fit(path: Path) -> FitSummary | None:
    fit = _document(path / "fit.json", FitSummary)
    return fit and fit.model_copy(update={"parts": len(list(path.glob("folds/*")))})


def _document(path: Path, schema: type[Document]) -> Document | None:
    try:
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _unreadable(path, error) from error


def _log(path: Path) -> list[LogLine]:
    try:
        return [TypeAdapter(LogLine).validate_json(line) for line in path.read_bytes().splitlines()]
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: ValueError) -> OutputError:
    return OutputError(f"{path}: cannot be read ({reason(error)}); remove it, and repeat the command that wrote it")
