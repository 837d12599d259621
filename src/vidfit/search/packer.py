"""Pack a trained run: the best ensemble for a number of bytes, written and measured as one file."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidfit.errors import BudgetError, ModelFileError, OutputError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.features.loader import Batches
from vidfit.files import make_folder, replacing, temporary, write_text
from vidfit.inference.packed_thresholds import set_thresholds
from vidfit.inference.predictor import load
from vidfit.locks import locked
from vidfit.progress import OnProgress, silent
from vidfit.recipe import Recipe, load_recipe
from vidfit.search.budget import Ensemble, best_within
from vidfit.search.carried import Form, Forms
from vidfit.search.run_members import RunMembers
from vidfit.search.search import Search
from vidfit.search.validation import Validation
from vidfit.sizes import count_of, format_size, parse_size

_log = logging.getLogger("vidfit")

# What is kept of a form of the extractor that was tried.
_SCORES = ("bytes", "gap_selection", "gap_confirmation")


def pack(
    run: Path | str,
    budget: str,
    max_ms: float | None = None,
    overwrite: bool = False,
    portable: bool = False,
    members: Sequence[str] | None = None,
    with_extractor: bool = False,
    on_progress: OnProgress = silent,
) -> Path:
    """Pack the best ensemble of a run's members that fits a budget.

    Arguments:
        run: folder of a trained run.
        budget: most bytes of the finished file: `1GB` (10^9), `1GiB`, `20MB`, ...
        max_ms: most milliseconds per video, in batches on this machine. None means no limit.
        overwrite: replace an existing file.
        portable: use only standard ONNX operators. Weights of less than 8 bits then take 8 in memory.
        members: names of the members to pack with equal weights; only bit widths are searched then. None searches
            members and weights too.
        with_extractor: put the models for pictures and sounds into the file. The budget holds for all.
        on_progress: called a few times a second.

    Returns:
        The file, `RUN/packed/BUDGET.onnx`. `BUDGET.json` in the same folder has its members and scores.

    Raises:
        BudgetError: nothing fits. The message has the size of the smallest possible file.
        ModelFileError: no member is trained, or one is damaged or has other labels than the rest.
        DataError: there are too few validation videos to select by.
        OutputError: the file exists already, or another process uses the run folder.
    """
    options = {"portable": portable, "members": members, "with_extractor": with_extractor}
    packer = open_run(run, **options, on_progress=on_progress)
    return packer.pack_named([budget], max_ms, overwrite)[0]


def open_run(
    run: Path | str,
    *,
    portable: bool = False,
    members: Sequence[str] | None = None,
    with_extractor: bool = False,
    on_progress: OnProgress = silent,
) -> "Packer":
    """The packer of a run folder, by the recipe in it. For the arguments see `pack`.

    Raises:
        ModelFileError, DataError: as `pack`.
    """
    path = Path(run) / "recipe.yaml"
    if not path.is_file():
        raise ModelFileError(
            f"{run}: is not a run folder (it has no recipe.yaml); make one with `vidfit run`. "
            "To pack members you name, use `vidfit pack-members`"
        )
    recipe = load_recipe(path)
    recipe.pack.portable |= portable
    weights = dict.fromkeys(members, 1.0) if members else None
    return Packer(Path(run), recipe, weights, on_progress, with_extractor)


class Packer:
    """Writes ensembles of a run's members as files.

    Arguments:
        directory: the run folder.
        recipe: its recipe, with absolute paths.
        weights: name -> weight, to pack these members and search only bit widths.
        on_progress: called a few times a second.
        with_extractor: see `pack`. The recipe may ask for it too.

    Raises:
        ModelFileError: as `pack`.
    """

    def __init__(
        self,
        directory: Path,
        recipe: Recipe,
        weights: Mapping[str, float] | None = None,
        on_progress: OnProgress = silent,
        with_extractor: bool = False,
    ) -> None:
        self.directory = directory
        self.on_progress = on_progress
        self.search = Search(RunMembers.read(directory, recipe, weights), on_progress)
        self._forms = Forms(self.search.members, on_progress) if with_extractor or recipe.pack.with_extractor else None
        self._chosen: Form | None = None
        self._options = {"portable": recipe.pack.portable, "odds": recipe.pack.odds}
        self._thresholds, self._precision = recipe.pack.thresholds, recipe.pack.precision
        self._frame_probabilities = recipe.pack.frame_probabilities

    def pack_named(self, budgets: Sequence[str], max_ms: float | None = None, overwrite: bool = False) -> list[Path]:
        """Write one file per budget, `RUN/packed/BUDGET.onnx`; see `pack`."""
        folder = self.directory / "packed"
        sizes = {folder / f"{budget.replace(' ', '')}.onnx": parse_size(budget) for budget in budgets}
        for path in sizes:
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: exists already; give another budget or add --overwrite")
        with locked(self.directory):
            self._pack_named(sizes, max_ms)
        return list(sizes)

    def _pack_named(self, sizes: Mapping[Path, int], max_ms: float | None) -> None:
        frontier = self.search.frontier(max_ms)
        for size in sizes.values():
            self._check(frontier, size)  # an error here leaves no file
        make_folder(self.directory / "packed")
        for path, size in sizes.items():
            with replacing(path) as partial:
                packed = self.pack(partial, size, max_ms)
                videos = self.search.members.batches("validation")
                passed = (videos.skip_corrupt, videos.labelled_only)
                chosen_by = self.threshold_shards, self._precision
                set_thresholds(partial, self._thresholds, *chosen_by, *passed, self.on_progress)
                path.with_suffix(".json").unlink(missing_ok=True)  # it describes the file that is replaced now
            write_text(path.with_suffix(".json"), json.dumps(packed, indent=2) + "\n")
            _log.info(
                "%s: %s in %s, validation GAP %.4f on the selecting half, %.4f on the confirming half",
                *(path, count_of(len(packed["members"]), "member"), format_size(packed["bytes"])),
                *(packed["gap_selection"], packed["gap_confirmation"]),
            )

    def pack(self, path: Path, budget: int, max_ms: float | None = None) -> dict[str, Any]:
        """Write the best ensemble that fits, and measure the file on both halves of the validation videos.

        Returns:
            `members`, `bytes` and `budget`; `ms` per validation video, with reading; `gap_selection` on the half that
            selected the ensemble and `gap_confirmation` on the other. With its extractor, also `extractor` (bits of
            its models) and `tried`: bytes and both GAPs of each form.
        """
        frontier = self.search.frontier(max_ms)
        self._check(frontier, budget)
        if self._forms is None:
            return self._pack(path, frontier, budget, None)
        return self._pack_best_form(path, frontier, budget)

    @property
    def with_extractor(self) -> bool:
        """Whether files carry the extractor."""
        return self._forms is not None

    @property
    def limits(self) -> tuple[int, int]:
        """Bytes of the smallest and of the largest file with extractor."""
        assert self._forms is not None
        frontier, common = self.search.frontier(), self.search.common_bytes
        forms = [form.bytes - common for form in self._forms.all]
        return frontier[0].bytes + min(forms), frontier[-1].bytes + max(forms)

    @property
    def threshold_shards(self) -> Sequence[Path]:
        """Validation videos as the last file that was packed sees them."""
        if self._forms and self._chosen:
            return [self._forms.shard(self._chosen)]
        return self.search.members.batches("validation").shards

    def _check(self, frontier: Sequence[Ensemble], budget: int) -> None:
        """Raises BudgetError if not even the smallest ensemble fits."""
        if self._forms is None:
            best_within(frontier, budget)
            return
        smallest = min(self._forms.all, key=lambda form: form.bytes)
        size = frontier[0].bytes - self.search.common_bytes + smallest.bytes
        if size > budget:
            raise BudgetError(
                f"no file with extractor fits {budget:,} bytes ({format_size(budget)}): the smallest possible, with "
                f"{smallest.title}, takes {size:,}; raise the budget, or pack without extractor"
            )

    def _pack_best_form(self, path: Path, frontier: Sequence[Ensemble], budget: int) -> dict[str, Any]:
        """Write a file for each form of the extractor, and keep the best on the selecting half."""
        assert self._forms is not None
        found: dict[str, Any] = {}
        tried, problem = [], None
        with temporary(path.parent) as this, temporary(path.parent) as best:
            for form in self._forms.all:
                try:
                    result = self._pack(this, frontier, budget, form)
                except BudgetError as error:
                    problem = error
                    continue
                tried.append({"extractor": form.bits, **{key: result[key] for key in _SCORES}})
                _log.info("with %s: validation GAP %.4f on the selecting half", form.title, result["gap_selection"])
                if not found or result["gap_selection"] > found["gap_selection"]:
                    found, self._chosen = result, form
                    this.replace(best)
            if problem and not found:
                raise problem
            best.replace(path)
        return {**found, "tried": tried}

    def _pack(self, path: Path, frontier: Sequence[Ensemble], budget: int, form: Form | None) -> dict[str, Any]:
        extra = form.bytes - self.search.common_bytes if form else 0
        fitting = [ensemble for ensemble in frontier if ensemble.bytes + extra <= budget]
        if not fitting:
            raise BudgetError(f"no ensemble fits {budget:,} bytes; raise the budget")
        members = self._write_the_best(fitting, path, budget, form)
        validation = self._validation(form)
        predict, start = load(path).predict_batch, time.perf_counter()
        gaps = validation.gaps(validation.predictions(predict))
        ms = 1000 * (time.perf_counter() - start) / len(validation.labels_VC)
        found = {"bytes": path.stat().st_size, "budget": budget, "ms": ms, "members": members, **gaps}
        return {**found, "extractor": form.bits} if form else found

    def _validation(self, form: Form | None) -> Validation:
        if self._forms is None or form is None:
            return self.search.validation
        batches = self.search.members.batches("validation")
        return Validation(Batches([self._forms.shard(form)], batches.spec, batches.classes, batches.batch_size))

    def write(self, path: Path, ensemble: Ensemble, budget: int, form: Form | None = None) -> list[dict[str, Any]]:
        """Write an ensemble of the frontier. Returns its members, as the file's metadata describe them.

        Raises:
            BudgetError: the file is larger than the budget.
        """
        chosen = zip(ensemble.candidates, ensemble.weights, strict=True)
        members = [PackedMember(self.search.candidates[place].load(), weight) for place, weight in chosen]
        of_frames = any(packed.member.info.classifier.has_frame_probabilities for packed in members)
        if self._frame_probabilities and not of_frames:
            _log.warning("no member is a frame-classifier, so the file gives no frame probabilities")
        options = self._options | {"frame_probabilities": self._frame_probabilities and of_frames}
        return write_graph(path, members, budget, **options, carried=form.carried if form else None)

    def _write_the_best(
        self, fitting: Sequence[Ensemble], path: Path, budget: int, form: Form | None
    ) -> list[dict[str, Any]]:
        for ensemble in fitting[:0:-1]:
            # A graph may take a few bytes more than estimated. Then try the next smaller ensemble.
            with suppress(BudgetError):
                return self.write(path, ensemble, budget, form)
        return self.write(path, fitting[0], budget, form)
