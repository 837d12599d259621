"""Files of one run's members: the best ensemble for a number of bytes, written, read again and measured."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidfit.errors import BudgetError, ModelFileError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.features.loader import Batches
from vidfit.inference.packed_thresholds import set_thresholds
from vidfit.inference.predictor import load
from vidfit.progress import OnProgress, silent
from vidfit.recipe import Recipe, load_recipe
from vidfit.search.budget import Ensemble
from vidfit.search.carried import Form, Forms
from vidfit.search.run_members import RunMembers
from vidfit.search.search import Search
from vidfit.search.validation import Validation

_log = logging.getLogger("vidfit")


def open_run(
    run: Path | str,
    *,
    portable: bool = False,
    members: Sequence[str] | None = None,
    with_extractor: bool = False,
    on_progress: OnProgress = silent,
) -> "Packer":
    """The packer of a run folder, by the recipe in it. For the arguments see `vidfit.pack`.

    Raises:
        ModelFileError, DataError: as `vidfit.pack`.
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
        with_extractor: see `vidfit.pack`. The recipe may ask for it too.

    Raises:
        ModelFileError: as `vidfit.pack`.
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
        self._options = {"portable": recipe.pack.portable, "odds": recipe.pack.odds}
        self._thresholds, self._precision = recipe.pack.thresholds, recipe.pack.precision
        self._frame_probabilities = recipe.pack.frame_probabilities

    @property
    def forms(self) -> Sequence[Form | None]:
        """The forms of the extractor that files may carry; only None where they carry none."""
        return self._forms.all if self._forms else [None]

    def bytes_of(self, ensemble: Ensemble, form: Form | None) -> int:
        """About what a file takes."""
        return ensemble.bytes + (form.bytes - self.search.common_bytes if form else 0)

    def pack(self, path: Path, budget: int, max_ms: float | None = None, form: Form | None = None) -> dict[str, Any]:
        """Write the best ensemble that fits, and measure the file on both halves of the validation videos.

        Returns:
            `members`, `bytes` and `budget`; `ms` per validation video, with reading; `gap_selection` on the half that
            selected the ensemble and `gap_confirmation` on the other.

        Raises:
            BudgetError: nothing fits.
        """
        fitting = [it for it in self.search.frontier(max_ms) if self.bytes_of(it, form) <= budget]
        if not fitting:
            raise BudgetError(f"no ensemble fits {budget:,} bytes; raise the budget")
        members = self._write_the_best(fitting, path, budget, form)
        validation = self._validation(form)
        predict, start = load(path).predict_batch, time.perf_counter()
        gaps = validation.gaps(validation.predictions(predict))
        ms = 1000 * (time.perf_counter() - start) / len(validation.labels_VC)
        return {"bytes": path.stat().st_size, "budget": budget, "ms": ms, "members": members, **gaps}

    def set_thresholds(self, path: Path, form: Form | None) -> None:
        """Choose the thresholds of a file that was packed, as the recipe wants them."""
        videos = self.search.members.batches("validation")
        reading = (videos.skip_corrupt, videos.labelled_only)
        shards = self.validation_shards(form)
        set_thresholds(path, self._thresholds, shards, self._precision, *reading, self.on_progress)

    def validation_shards(self, form: Form | None) -> Sequence[Path]:
        """Validation videos as a file sees them."""
        if self._forms and form:
            return [self._forms.shard(form)]
        return self.search.members.batches("validation").shards

    def _validation(self, form: Form | None) -> Validation:
        if form is None:
            return self.search.validation
        batches = self.search.members.batches("validation")
        return Validation(Batches(self.validation_shards(form), batches.spec, batches.classes, batches.batch_size))

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
