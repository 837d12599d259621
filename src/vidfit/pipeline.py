"""A recipe, run: train its members, quantise and measure each, pack the ensemble, measure the file.

Everything lies in one run folder:

    RUN/recipe.yaml                   the recipe as it was understood
    RUN/members/NAME/                 best.safetensors, last.safetensors, quantized.safetensors, log.jsonl
    RUN/distillation/                 teachers and their soft labels (lineage.py)
    RUN/packing/NAME/                 what the search knows of a member (search/candidates.py)
    RUN/frontier.json                 the best ensemble for other budgets
    RUN/model.onnx                    the packed file
    RUN/labels.json                   how good the packed file is at each label, and its calibration
    RUN/summary.json                  the results (its schema: docs, file formats)
    RUN/report.html                   all of it on one page
    RUN/stages.json                   what is done, and from which inputs

A stage is repeated only if its inputs changed, so calling the same command again resumes. Mistakes that can be known
before the first training step are refused then, and the folder stays as it was.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vidfit import distributed
from vidfit.errors import BudgetError, reason
from vidfit.evaluation.evaluate import skipped_of
from vidfit.export.graph import PackedMember, write_graph
from vidfit.features.survey import digests
from vidfit.files import make_folder, write_text
from vidfit.inference.distributed_jobs import measure, measure_labels
from vidfit.inference.packed_thresholds import set_thresholds
from vidfit.lineage import plan_trainings
from vidfit.locks import locked
from vidfit.preflight import check, needs_narrow_weights
from vidfit.progress import OnProgress, counter, log_skipped, silent
from vidfit.quantization.member import QUANTIZED, load_member, quantize_member
from vidfit.recipe import Recipe
from vidfit.report.page import REPORT, write_report
from vidfit.run_data import describe_data, read_data, tell_of_labels
from vidfit.search.carried import extractor_in_8_bits, known_extractor
from vidfit.search.frontier import FRONTIER, known_frontier
from vidfit.search.packer import Packer
from vidfit.search.runs import Runs
from vidfit.sizes import count_of, format_size, parse_size
from vidfit.stages import Stages
from vidfit.training.checkpoint import BEST
from vidfit.training_jobs import TrainingJobs

MODEL = "model.onnx"
SUMMARY = "summary.json"
LABELS = "labels.json"
_SCORES = ("gap", "map", "hit_at_1", "perr")
_OF_DECISIONS = ("micro_precision", "micro_recall", "micro_f1", "macro_f1")
# The scores of a run without eval shards.
_NOT_MEASURED: dict[str, Any] = dict.fromkeys(_SCORES)

log = logging.getLogger(__name__)


def run(
    recipe: Recipe, directory: Path | str, overwrite: bool = False, on_progress: OnProgress = silent
) -> dict[str, Any]:
    """Do every stage of a recipe that is not done yet.

    Arguments:
        recipe: what to do.
        directory: the run folder; created if missing.
        overwrite: retrain members whose settings differ from those the folder's were trained with.
        on_progress: called a few times a second.

    Returns:
        The summary, which is also in `summary.json`.

    Raises:
        VidfitError: another process uses the folder, or a stage fails; see `vidfit.errors`.
    """
    with locked(Path(directory)):
        whole = Run(recipe, Path(directory), overwrite, on_progress=on_progress)
        tell_of_labels(whole.data)
        summary = whole.do_all()
        whole.report()
        return summary


class Run:
    """The stages of one recipe in one folder.

    Arguments:
        recipe: what to do.
        directory: the run folder; created if missing.
        overwrite: retrain members whose settings differ from those the folder's were trained with.
        members: which of the recipe's members to train; None means all.
        on_progress: called a few times a second.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        overwrite: bool = False,
        members: Sequence[str] | None = None,
        on_progress: OnProgress = silent,
    ) -> None:
        self.recipe, self.directory = recipe, directory
        self.data = check(recipe, read_data(recipe.data, on_progress))
        self._on_progress = on_progress
        self._stages = Stages(directory / "stages.json", directory / SUMMARY)
        self._members, self._teachers = plan_trainings(recipe, self.data, list(members or recipe.members))
        self._jobs = TrainingJobs(recipe, self.data, directory, self._stages, on_progress)
        if not overwrite:
            self._jobs.refuse_others([*self._teachers, *self._members.values()])
        make_folder(directory)
        write_text(directory / "recipe.yaml", yaml.safe_dump(recipe.model_dump(by_alias=True), sort_keys=False))

    def do_all(self) -> dict[str, Any]:
        """Every stage but the report; returns the summary."""
        members = [self._do_member(name) for name in self.recipe.members]
        teachers = [
            {"generation": job.generation, "name": job.name, "fold": job.fold} | (self._jobs.recorded(job) or {})
            for job in self._teachers
        ]
        described = describe_data(self.data)
        summary = {"data": described, "members": members, "teachers": teachers, "packed": self.pack()}
        write_text(self.directory / SUMMARY, json.dumps(summary, indent=2) + "\n")
        return summary

    def _do_member(self, name: str) -> dict[str, Any]:
        """Train, quantise and measure a member; returns its row of the summary."""
        trained = self.train(name)
        folder = self.directory / "members" / name
        origin = self._members[name].digest
        self._stages.do(
            f"quantize {name}", origin, [folder / QUANTIZED], lambda: {"path": str(quantize_member(folder))}
        )
        full, quantized = (
            self._stages.do(
                f"evaluate {name} {precision}",
                {"member": origin, "eval": self._measured_on()},
                [],
                lambda file=file, precision=precision: self._evaluate(folder / file, f"{name} {precision}"),
            )
            if self.data.shards["eval"]
            else _NOT_MEASURED
            for precision, file in (("float32", BEST), ("quantized", QUANTIZED))
        )
        return {
            "name": name,
            "family": self.recipe.members[name].family.type,
            "parameters": self.data.parameters[name],
            **trained,
            "gap": full["gap"],
            "map": full["map"],
            "gap_quantized": quantized["gap"],
            "bytes_float32": load_member(folder / BEST).nbytes,
            "bytes_quantized": load_member(folder / QUANTIZED).nbytes,
        }

    def train(self, name: str) -> dict[str, Any]:
        """Train a member, after its teachers; returns its best validation GAP and the step it was reached at."""
        return self._jobs.run(self._members[name])

    def pack(self) -> dict[str, Any]:
        """Pack the recipe's members, or those that a search finds, and measure the file: `packed` of the summary.

        If named members do not fit in 8 bits, a search finds narrower weights for them. The validation videos choose
        the thresholds.
        """
        path, labels = self.directory / MODEL, self.directory / LABELS
        pack = self.recipe.pack
        budget = parse_size(pack.budget)
        inputs = {
            "pack": pack.model_dump(exclude_defaults=True, exclude={"thresholds"}),  # its content is below
            "members": [self._members[name].digest for name in pack.members or self.recipe.members],
            "thresholds": self.data.files.get(pack.thresholds or ""),
            "validation": [digests(self.data.shards["validation"], self.data.surveys), self.recipe.data.unlabelled],
        }
        if path.exists() and path.stat().st_size > budget:
            path.unlink()  # of a larger budget: if packing fails now, no file must be left that is too large
        packed = self._stages.do("pack", inputs, [path], lambda: self._pack(path, budget))
        scores = _NOT_MEASURED
        if self.data.shards["eval"]:
            inputs = {**inputs, "eval": self._measured_on()}
            scores = self._stages.do("evaluate packed", inputs, [labels], lambda: self._evaluate_labels(path, labels))
        return {"path": MODEL, "bytes": path.stat().st_size, "budget": budget, **packed, **scores}

    def _pack(self, path: Path, budget: int) -> dict[str, Any]:
        packed, shards = self._write(path, budget)
        pack, reading = self.recipe.pack, (self.data.skip_corrupt, self.data.labelled_only)
        set_thresholds(path, pack.thresholds, shards, pack.precision, *reading, self._on_progress)
        return packed

    def _write(self, path: Path, budget: int) -> tuple[dict[str, Any], Sequence[Path]]:
        """Returns what the file holds, and the shards that choose its thresholds."""
        names = self.recipe.pack.members
        for file in (FRONTIER, "frontier.csv"):  # of the members as they were
            (self.directory / file).unlink(missing_ok=True)
        if names and not needs_narrow_weights(self.recipe.pack, self.data.parameters):
            try:
                return self._pack_named(path, names, budget), self.data.shards["validation"]
            except BudgetError:  # the bytes of the graph itself are known once it is written
                if not self.data.shards["validation"]:
                    raise
        runs = Runs([Packer(self.directory, self.recipe, names, self._on_progress)])
        packed, packer, form = runs.pack(path, budget, self.recipe.pack.max_ms)
        write_text(self.directory / FRONTIER, json.dumps(known_frontier(runs.search), indent=2) + "\n")
        return packed, packer.validation_shards(form)

    def _pack_named(self, path: Path, weights: dict[str, float], budget: int) -> dict[str, Any]:
        log.info("packing %s under %s", count_of(len(weights), "member"), format_size(budget))
        members = [
            PackedMember(load_member(self.directory / "members" / name / QUANTIZED), weight)
            for name, weight in weights.items()
        ]
        pack = self.recipe.pack
        options: dict[str, Any] = {
            "portable": pack.portable,
            "frame_probabilities": pack.frame_probabilities,
            "odds": pack.odds,
        }
        if pack.with_extractor:
            options["carried"] = extractor_in_8_bits(known_extractor(self.data.extractor))
        return {"members": write_graph(path, members, budget, **options)}

    def report(self) -> None:
        """Write the report; whatever is wrong with it, the run is finished."""
        page = self.directory / REPORT
        try:
            page.unlink(missing_ok=True)  # of another state of the run
            write_report(self.directory)
        except Exception as error:
            again = f"`vidfit report {self.directory}` tries again"
            log.warning("%s: could not be written (%s); %s", page, reason(error), again)

    def _measured_on(self) -> list[Any]:
        """Inputs of an evaluation, besides the model."""
        return [digests(self.data.shards["eval"], self.data.surveys), self.recipe.data.unlabelled]

    def _evaluate(self, model: Path, what: str) -> dict[str, Any]:
        result = self._measure(measure, model, what)
        log_skipped(f"evaluating {what}", skipped_of(result))
        return _scores(result)

    def _evaluate_labels(self, packed: Path, labels: Path) -> dict[str, Any]:
        """As `_evaluate`, and leaves the details of labels and probabilities in a file."""
        labels.unlink(missing_ok=True)  # of another packed file
        result, details = self._measure(measure_labels, packed, "packed")
        log_skipped("evaluating packed", skipped_of(result))
        write_text(labels, json.dumps(details, indent=2) + "\n")
        return _scores(result)

    def _measure(self, job: Callable[..., Any], model: Path, what: str) -> Any:
        """What a job of `distributed_jobs.py` finds of a model on the eval shards."""
        return distributed.on_all_ranks(
            job,
            model,
            self.data.shards["eval"],
            self.data.skip_corrupt,
            labelled_only=self.data.labelled_only,
            rank_0_only={"on_count": counter(self._on_progress, f"evaluating {what}", "videos")},
        )


def _scores(result: dict[str, float]) -> dict[str, float]:
    """The part of an evaluation that the summary has; decisions where the file has thresholds."""
    keys = (*_SCORES, *_OF_DECISIONS, "accuracy", "top_5_accuracy")
    return {key: result[key] for key in keys if key in result}
