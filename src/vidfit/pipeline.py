"""A recipe, run: teach, train, quantise and measure each member, pack the ensemble, measure the file.

Everything lies in one run folder:

    RUN/recipe.yaml                   the recipe as it was understood
    RUN/members/NAME/                 best.safetensors, last.safetensors, quantized.safetensors, log.jsonl
    RUN/distillation/G/teachers/NAME/ the same of generation G, whose students take its place (a fold a folder)
    RUN/distillation/G/soft-labels/   what generation G says of the training videos
    RUN/packing/NAME/                 what the search knows of a member (search/candidates.py)
    RUN/frontier.json                 and of other budgets
    RUN/model.onnx                    the packed file
    RUN/labels.json                   how good the packed file is at each label, and its probabilities
    RUN/summary.json                  what came out (docs/reference/file-formats.md has its schema)
    RUN/report.html                   all of it on one page
    RUN/stages.json                   what is done, and from which inputs

A stage whose inputs are unchanged is not done again, so a second call of the same command goes on where the first was
stopped. Inputs are compared by recipe keys and by the shards' names and sizes, not by their content. Whatever can be
known to be wrong before the first training step is refused then, and the folder left as it was.
"""

import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vidfit import distributed, progress
from vidfit.errors import BudgetError, OutputError, reason
from vidfit.export.graph import PackedMember, write_graph
from vidfit.features.loader import Batches, balanced_copies
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.features.spec import FeatureSpec, Vocabulary
from vidfit.files import make_folder
from vidfit.inference.distributed_jobs import measure, measure_labels, soft_label
from vidfit.models.classifier import ClassifierConfig
from vidfit.preflight import (
    check_budget,
    check_disjoint,
    check_distillation,
    check_labelled,
    check_ranks,
    check_soft_labels,
    count_parameters,
)
from vidfit.quantization.member import QUANTIZED, load_member, quantize_member
from vidfit.recipe import Recipe
from vidfit.report.page import REPORT, write_report
from vidfit.search.frontier import FRONTIER, known_frontier
from vidfit.search.packer import Packer
from vidfit.search.validation import BATCH_SIZE, Validation
from vidfit.sizes import format_size, parse_size
from vidfit.stages import Stages, digest, write_text
from vidfit.training.checkpoint import BEST, MemberInfo
from vidfit.training.checkpoint_manager import CHECKPOINTS
from vidfit.training.distillation import (
    SoftLabels,
    Teacher,
    read_soft_labels_info,
    soft_labels_file,
    soft_labels_files,
)
from vidfit.training.epochs import label_counts
from vidfit.training.trainer import train

MODEL = "model.onnx"
SUMMARY = "summary.json"
LABELS = "labels.json"


def run(recipe: Recipe, directory: Path | str, overwrite: bool = False) -> dict[str, Any]:
    """Do every stage of a recipe that is not done yet.

    Arguments:
        recipe: what to do.
        directory: the run folder; made if absent.
        overwrite: train members again whose settings differ from those that the folder's were trained with.

    Returns:
        The summary, which is also in `summary.json`.

    Raises:
        VidfitError: whatever a stage meets; see `vidfit.errors`.
    """
    return Run(recipe, Path(directory), overwrite).all()


@dataclass(frozen=True)
class Trainee:
    """One training of a run."""

    name: str
    """The member of the recipe that says how."""
    generation: int
    """0 learns from labels alone (or given soft labels), each later one from the generation before it."""
    fold: int | None = None
    """The part of the training shards that it does not see; None where it sees all."""


class Run:
    """The stages of one recipe in one folder.

    Arguments:
        recipe: what to do.
        directory: the run folder; made if absent.
        overwrite: train members again whose settings differ from those that the folder's were trained with.
        members: which of the recipe's members will be trained; all where absent.
    """

    def __init__(
        self, recipe: Recipe, directory: Path, overwrite: bool = False, members: Sequence[str] | None = None
    ) -> None:
        self.recipe = recipe
        self.directory = directory
        self.names = list(members or recipe.members)
        data = recipe.data
        self.shards = {name: expand_shards(getattr(data, name)) for name in ("train", "validation", "eval")}
        check_disjoint(self.shards)
        self._distill = recipe.distill
        self._generations = (recipe.distill and recipe.distill.generations) or 0
        self.vocabulary = Vocabulary.from_csv(Path(data.vocabulary))
        self.spec: FeatureSpec = infer_spec(self.shards["train"], data.skip_corrupt)
        if self._distill and self._distill.soft_labels:
            folder = Path(self._distill.soft_labels)
            check_soft_labels(folder, self._batches(self.shards["train"]), self.vocabulary)
            # Kept, because every training's digest has it and there may be thousands of files.
            self._given = [read_soft_labels_info(file).model_dump() for file in soft_labels_files(folder)]
        if self._distill:
            check_distillation(self._distill, self.shards["train"])
        for which, shards in self.shards.items():
            check_labelled(which, shards, self.spec, len(self.vocabulary), data.skip_corrupt)
        self.parameters = {
            name: count_parameters(name, config, self.spec, len(self.vocabulary))
            for name, config in recipe.members.items()
        }
        check_budget(recipe.pack, self.parameters)
        check_ranks(recipe.members)
        if not recipe.pack.members or self._needs_narrow_widths():
            Validation(self.shards["validation"], self.spec, len(self.vocabulary), data.skip_corrupt)
        self._stages = Stages(directory / "stages.json", directory / SUMMARY)
        self._digests: dict[Trainee, str] = {}
        for trainee in self._trainees():
            if self._trained_otherwise(trainee) and not overwrite:
                raise OutputError(
                    f"{self._folder(trainee)}: was trained with other settings or shards, "
                    "or by another version of vidfit; choose another run folder, or train it again with --overwrite"
                )
        make_folder(directory)
        write_text(directory / "recipe.yaml", yaml.safe_dump(recipe.model_dump(by_alias=True), sort_keys=False))

    def all(self) -> dict[str, Any]:
        """Every stage; returns the summary."""
        members = [self.member(name) for name in self.recipe.members]
        teachers = [
            {"generation": trainee.generation, "name": trainee.name, "fold": trainee.fold}
            | (self._trained(trainee) or {})
            for trainee in self._trainees()
            if trainee.generation < self._generations
        ]
        summary = {"members": members, "teachers": teachers, "packed": self.pack()}
        write_text(self.directory / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self._report()
        return summary

    def train(self, name: str) -> dict[str, Any]:
        """Train a member, after its teachers: its best validation GAP and the step it was reached at."""
        assert name in self.names
        return self._train(self._member(name))

    def member(self, name: str) -> dict[str, Any]:
        """Train, quantise and measure a member: its row of the summary."""
        trained = self.train(name)
        folder = self._folder(self._member(name))
        lineage = self._stages.inputs(f"train {name}")
        codebook = self.recipe.quantize.codebook
        self._stages.do(
            f"quantize {name}",
            self._quantized(name),
            [folder / QUANTIZED],
            lambda: {"path": str(quantize_member(folder, codebook=codebook))},
        )
        scores = {}
        for form, file in (("float32", folder / BEST), ("quantized", folder / QUANTIZED)):
            member = lineage if form == "float32" else self._quantized(name)
            inputs = {"member": member, "eval": _names_and_sizes(self.shards["eval"])}
            scores[form] = self._stages.do(
                f"evaluate {name} {form}",
                inputs,
                [],
                lambda file=file, form=form: self._evaluate(file, f"{name} {form}"),
            )
        return {
            "name": name,
            "family": self.recipe.members[name].family.type,
            "parameters": self.parameters[name],
            **trained,
            "gap": scores["float32"]["gap"],
            "map": scores["float32"]["map"],
            "gap_quantized": scores["quantized"]["gap"],
            "bytes_float32": (folder / BEST).stat().st_size,
            "bytes_quantized": (folder / QUANTIZED).stat().st_size,
        }

    def pack(self) -> dict[str, Any]:
        """Pack the recipe's members, or those that a search finds, and measure the file: `packed` of the summary.

        Named members that do not fit in 8 bits take the widths that a search finds.
        """
        path = self.directory / MODEL
        names = self.recipe.pack.members
        budget = parse_size(self.recipe.pack.budget)
        inputs = {
            "pack": self.recipe.pack.model_dump(exclude_defaults=True),
            "members": [self._quantized(name) for name in names or self.recipe.members],
        }

        def fixed() -> dict[str, Any]:
            assert names
            progress.console.print(f"packing {len(names)} members under {format_size(budget)}")
            members = [
                PackedMember(load_member(self._folder(self._member(name)) / QUANTIZED), weight)
                for name, weight in names.items()
            ]
            return {"members": write_graph(path, members, budget, portable=self.recipe.pack.portable)}

        def searched() -> dict[str, Any]:
            packer = Packer(self.directory, self.recipe, names)
            packed = packer.pack(path, budget, self.recipe.pack.max_ms)
            write_text(self.directory / FRONTIER, json.dumps(known_frontier(packer), indent=2) + "\n")
            return packed

        def work() -> dict[str, Any]:
            for file in (FRONTIER, "frontier.csv"):  # of the members as they were
                (self.directory / file).unlink(missing_ok=True)
            if names and not self._needs_narrow_widths():
                with suppress(BudgetError):  # what a graph takes beside weights is known once it is written
                    return fixed()
            return searched()

        if path.exists() and path.stat().st_size > budget:
            path.unlink()  # of another budget; it must not be taken for this one's if packing fails
        packed = self._stages.do("pack", inputs, [path], work)
        inputs = {**inputs, "eval": _names_and_sizes(self.shards["eval"])}
        labels = self.directory / LABELS
        scores = self._stages.do("evaluate packed", inputs, [labels], lambda: self._evaluate_labels(path, labels))
        return {"path": MODEL, "bytes": path.stat().st_size, "budget": budget, **packed, **scores}

    def _report(self) -> None:
        """Write the report; whatever is wrong with it, the run is finished."""
        page = self.directory / REPORT
        try:
            page.unlink(missing_ok=True)  # of another state of the run
            write_report(self.directory)
        except Exception as error:
            again = f"`vidfit report {self.directory}` tries again"
            progress.console.print(f"{page}: could not be written ({reason(error)}); {again}")

    def _member(self, name: str) -> Trainee:
        return Trainee(name, self._generations)

    def _trainees(self) -> Iterator[Trainee]:
        """All trainings: the teachers, generation by generation, then the members."""
        own = self._distill is not None and self._distill.teachers == "own"
        for generation in range(self._generations):
            yield from self._teachers(generation, self.names if own else self.names[:1])
        yield from map(self._member, self.names)

    def _teachers(self, generation: int, students: Iterable[str]) -> Iterator[Trainee]:
        """Who of a generation teaches these members."""
        assert self._distill is not None
        named = self._distill.teachers or list(self.recipe.pack.members or self.recipe.members)
        folds = [None] if self._distill.folds is None else range(self._distill.folds)
        for student in students:
            for name in [student] if named == "own" else named:
                for fold in folds:
                    yield Trainee(name, generation, fold)

    def _quantized(self, name: str) -> Any:
        """What a member's 8-bit form follows from."""
        lineage, codebook = self._stages.inputs(f"train {name}"), self.recipe.quantize.codebook
        return lineage if codebook == "uniform" else [lineage, codebook]

    def _folder(self, trainee: Trainee) -> Path:
        if trainee.generation == self._generations:
            return self.directory / "members" / trainee.name
        teachers = self.directory / "distillation" / str(trainee.generation) / "teachers" / trainee.name
        return teachers if trainee.fold is None else teachers / f"fold-{trainee.fold}"

    def _title(self, trainee: Trainee) -> str:
        if trainee.generation == self._generations:
            return trainee.name
        fold = "" if trainee.fold is None else f" fold {trainee.fold}"
        return f"generation {trainee.generation} {trainee.name}{fold}"

    def _train(self, trainee: Trainee) -> dict[str, Any]:
        """Train a member or a teacher, after its own teachers."""
        config = self.recipe.members[trainee.name]
        title, folder = self._title(trainee), self._folder(trainee)
        # Teachers may be gone once their student is there.
        if (done := self._trained(trainee)) and (folder / BEST).exists():
            return done
        soft_labels = self._soft_labels(trainee)

        def work() -> dict[str, Any]:
            info = MemberInfo(
                name=trainee.name,
                classifier=ClassifierConfig(encoder=config.encoder, family=config.family, head=config.head),
                spec=self.spec,
                vocabulary=self.vocabulary.names,
                step=0,
                gap_validation=-1.0,
            )
            # Members of the same architecture must not start from the same weights.
            seed = self.recipe.seed * 65_537 + zlib.crc32(title.encode()) % 65_537
            training, shards = config.training, self._fold(trainee.fold, outside=True)
            reading = {
                "batch_size": training.batch_size,
                "shuffle_buffer": training.shuffle_buffer,
                "seed": seed,
                "workers": training.workers,
            }
            batches = self._batches(shards, **reading)
            if training.balance:
                counts_C, _ = label_counts(batches, len(self.vocabulary))
                batches = self._batches(shards, **reading, copies=balanced_copies(counts_C, training.balance))
            validation = self._batches(self.shards["validation"])

            def say(line: str) -> None:
                progress.console.print(f"{title}: {line}")

            teacher = None
            if soft_labels and self._distill:
                teacher = Teacher(SoftLabels(soft_labels, self.vocabulary.names), self._distill.share)
            with progress.training_bar(title) as show:
                best = distributed.together(
                    train,
                    info,
                    training,
                    batches,
                    validation,
                    folder,
                    seed,
                    teacher=teacher,
                    here={"show": show, "say": say},
                )
            progress.console.print(f"{title}: best validation GAP {best.gap_validation:.4f} at step {best.step}")
            return {"step": best.step, "gap_validation": best.gap_validation}

        if self._trained_otherwise(trainee):
            shutil.rmtree(folder)
        make_folder(folder)
        return self._stages.do(f"train {title}", self._training_inputs(trainee), [folder / BEST], work)

    def _soft_labels(self, student: Trainee) -> Path | None:
        """Where a student's soft labels are; trains its teachers and has them label the training videos."""
        distill = self._distill
        if distill and distill.soft_labels:
            return Path(distill.soft_labels)
        if distill is None or student.generation == 0:
            return None
        generation = student.generation - 1
        teachers = list(self._teachers(generation, [student.name]))
        for teacher in teachers:
            self._train(teacher)
        folder = self.directory / "distillation" / str(generation) / "soft-labels"
        stage = f"soft-label generation {generation}"
        if distill.teachers == "own":
            folder, stage = folder / student.name, f"{stage} {student.name}"
        inputs = {"teachers": self._lineage(teachers), "top_k": distill.top_k}

        def work() -> dict[str, Any]:
            skipped = 0
            for fold in dict.fromkeys(teacher.fold for teacher in teachers):
                files = [self._folder(teacher) / BEST for teacher in teachers if teacher.fold == fold]
                shards, skip = self._fold(fold, outside=False), self.recipe.data.skip_corrupt
                with progress.counting_bar(stage) as show:
                    _, more = distributed.together(
                        soft_label, files, shards, folder, distill.top_k, skip, here={"show": show}
                    )
                skipped += more
            progress.say_skipped(stage, skipped)
            return {}

        if folder.exists() and not self._stages.begun(stage, inputs):
            shutil.rmtree(folder)
        make_folder(folder)
        self._stages.do(stage, inputs, [soft_labels_file(folder, shard) for shard in self.shards["train"]], work)
        return folder

    def _fold(self, fold: int | None, outside: bool) -> list[Path]:
        """Training shards of a fold, or all others; every shard where there are no folds."""
        shards = self.shards["train"]
        if fold is None:
            return shards
        assert self._distill is not None
        assert self._distill.folds is not None
        return [shard for index, shard in enumerate(shards) if (index % self._distill.folds == fold) != outside]

    def _training_inputs(self, trainee: Trainee) -> dict[str, Any]:
        config, distill = self.recipe.members[trainee.name], self._distill
        inputs = {
            # Without defaults, so that a key that is added one day does not undo what was trained without it; and
            # without what changes nothing as long as all goes well.
            "member": config.model_dump(exclude_defaults=True, exclude={"training": {"checkpoint_minutes", "on_nan"}}),
            "family": config.family.type,
            "head": config.head.type,
            "seed": self.recipe.seed,
            "train": _names_and_sizes(self._fold(trainee.fold, outside=True)),
            "validation": _names_and_sizes(self.shards["validation"]),
            "vocabulary": self.vocabulary.names,
        }
        if distill and distill.soft_labels:
            inputs["soft labels"] = [distill.share, self._given]
        if trainee.generation:
            assert distill is not None
            teachers = self._teachers(trainee.generation - 1, [trainee.name])
            inputs["distill"] = [distill.share, distill.top_k, self._lineage(teachers)]
        return inputs

    def _lineage(self, trainees: Iterable[Trainee]) -> list[tuple[str, str]]:
        """Names and digests of what these are trained from; kept, for a teacher has many students."""
        trainees = list(trainees)
        for trainee in trainees:
            if trainee not in self._digests:
                self._digests[trainee] = digest(self._training_inputs(trainee))
        return [(self._title(trainee), self._digests[trainee]) for trainee in trainees]

    def _trained(self, trainee: Trainee) -> dict[str, Any] | None:
        """What a training led to; None where it is not done."""
        return self._stages.recorded(f"train {self._title(trainee)}", self._training_inputs(trainee))

    def _trained_otherwise(self, trainee: Trainee) -> bool:
        """Whether the trainee's folder has checkpoints that are not known to be of these inputs."""
        trained = any((self._folder(trainee) / file).exists() for file in (BEST, *CHECKPOINTS))
        return trained and not self._stages.begun(f"train {self._title(trainee)}", self._training_inputs(trainee))

    def _needs_narrow_widths(self) -> bool:
        """Whether the recipe's packed members are beyond the budget with a byte a weight."""
        weights = sum(self.parameters[name] for name in self.recipe.pack.members or ())
        return weights > parse_size(self.recipe.pack.budget)

    def _evaluate(self, model: Path, description: str) -> dict[str, Any]:
        with progress.videos_bar(f"evaluating {description}") as show:
            result = distributed.together(
                measure, model, self.shards["eval"], self.recipe.data.skip_corrupt, here={"show": show}
            )
        progress.say_skipped(f"evaluating {description}", int(result["skipped"]))
        return _scores(result)

    def _evaluate_labels(self, packed: Path, labels: Path) -> dict[str, Any]:
        """As `_evaluate`; what else is found of labels and probabilities is left in a file."""
        labels.unlink(missing_ok=True)  # of another packed file
        with progress.videos_bar("evaluating packed") as show:
            result, details = distributed.together(
                measure_labels, packed, self.shards["eval"], self.recipe.data.skip_corrupt, here={"show": show}
            )
        progress.say_skipped("evaluating packed", int(result["skipped"]))
        write_text(labels, json.dumps(details, indent=2) + "\n")
        return _scores(result)

    def _batches(self, shards: list[Path], batch_size: int = BATCH_SIZE, **options: Any) -> Batches:
        skip = self.recipe.data.skip_corrupt
        return Batches(shards, self.spec, len(self.vocabulary), batch_size, skip_corrupt=skip, **options)


def _scores(result: dict[str, float]) -> dict[str, float]:
    """What the summary tells of an evaluation."""
    return {key: result[key] for key in ("gap", "map", "hit_at_1", "perr")}


def _names_and_sizes(shards: list[Path]) -> list[tuple[str, int]]:
    return [(shard.name, shard.stat().st_size) for shard in shards]
