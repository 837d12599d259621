"""A trained run, packed for any number of bytes: the best ensemble of candidates, written and measured as one file."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from vidfit import progress
from vidfit.errors import BudgetError, ModelFileError, OutputError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.metadata import metadata_bytes
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.files import make_folder
from vidfit.inference.predictor import load
from vidfit.recipe import Recipe, load_recipe
from vidfit.search.blend import HeldOut
from vidfit.search.budget import Ensemble, best_within, explore
from vidfit.search.candidates import Choice, candidates_of, float_predictions
from vidfit.search.validation import BATCH_SIZE, Validation
from vidfit.sizes import format_size, parse_size
from vidfit.stages import write_text
from vidfit.training.checkpoint import BEST, MemberInfo, read_info


def pack(
    run: Path | str,
    budget: str,
    max_ms: float | None = None,
    overwrite: bool = False,
    portable: bool = False,
    members: Sequence[str] | None = None,
) -> Path:
    """Pack the best ensemble of a run's members that fits.

    Arguments:
        run: the folder of a trained run.
        budget: bytes that the finished file may take: `1GB` (10^9), `1GiB`, `20MB`, ...
        max_ms: milliseconds that a video may take on this machine, in batches; any number where absent.
        overwrite: replace the file that an earlier call has left.
        portable: use operators of the ONNX standard alone; slower where weights have less than 8 bits.
        members: names of those that are to be in the file with equal weights, so that only widths are searched; where
            absent, members and weights are, too.

    Returns:
        The file, `RUN/packed/BUDGET.onnx`; `BUDGET.json` beside it tells what is in it and what it reaches.

    Raises:
        BudgetError: nothing fits; the message has the size of the smallest possible file.
        ModelFileError: there is no trained member, or one is damaged or of another vocabulary than the others.
        DataError: there are no validation videos to select by.
        OutputError: the file exists already.
    """
    return open_run(run, portable=portable, members=members).pack_named([budget], max_ms, overwrite)[0]


def open_run(run: Path | str, *, portable: bool = False, members: Sequence[str] | None = None) -> "Packer":
    """The packer of a run folder and the recipe in it, which `portable` and `members` (see `pack`) override.

    Raises:
        ModelFileError, DataError: as `pack`.
    """
    path = Path(run) / "recipe.yaml"
    if not path.is_file():
        raise ModelFileError(
            f"{run}: is no run folder (it has no recipe.yaml); make one with `vidfit run`; "
            "to pack members give --output, too"
        )
    recipe = load_recipe(path)
    recipe.pack.portable |= portable
    return Packer(Path(run), recipe, dict.fromkeys(members, 1.0) if members else None)


class Packer:
    """The members of a run and the search over them. What takes long is done once and kept in `RUN/packing`.

    Arguments:
        directory: the run folder.
        recipe: its recipe, paths absolute.
        weights: name -> weight, where these members are to be packed and only their widths searched.

    Raises:
        ModelFileError, DataError: as `pack`.
    """

    def __init__(self, directory: Path, recipe: Recipe, weights: Mapping[str, float] | None = None) -> None:
        self.directory = directory
        self.data = recipe.data
        self._portable = recipe.pack.portable
        files = {name: directory / "members" / name / BEST for name in recipe.members}
        self.members = {name: file for name, file in files.items() if file.exists()}
        if not self.members:
            raise ModelFileError(f"{directory}: has no trained member; train some with `vidfit run` or `vidfit train`")
        self._shares: dict[str, float] | None = None
        if weights:
            for name in weights:
                if name not in self.members:
                    raise ModelFileError(
                        f"{directory}: has no trained member {name!r}; it has {', '.join(self.members)}"
                    )
            self.members = {name: self.members[name] for name in weights}
            self._shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        self.infos = {name: read_info(file) for name, file in self.members.items()}
        first = next(iter(self.infos))
        self.info: MemberInfo = self.infos[first]
        for name, info in self.infos.items():
            if (info.spec, info.vocabulary) != (self.info.spec, self.info.vocabulary):
                raise ModelFileError(
                    f"{self.members[name]}: knows other features or labels than {self.members[first]}; train it again "
                    "with this run's recipe"
                )
        self._frontiers: dict[float | None, list[Ensemble]] = {}

    def pack_named(self, budgets: Sequence[str], max_ms: float | None = None, overwrite: bool = False) -> list[Path]:
        """A file for each budget, by its name in `RUN/packed`; see `pack`."""
        folder = self.directory / "packed"
        sizes = {folder / f"{budget.replace(' ', '')}.onnx": parse_size(budget) for budget in budgets}
        for path in sizes:
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: exists already; give another budget or add --overwrite")
        frontier = self.frontier(max_ms)
        for size in sizes.values():
            best_within(frontier, size)  # before the first file is written
        make_folder(folder)
        for path, size in sizes.items():
            path.with_suffix(".json").unlink(missing_ok=True)  # it tells of the file that is about to be replaced
            told = self.pack(path, size, max_ms)
            write_text(path.with_suffix(".json"), json.dumps(told, indent=2) + "\n")
            progress.console.print(
                f"{path}: {len(told['members'])} members in {format_size(told['bytes'])}, validation GAP "
                f"{told['gap_selection']:.4f} where it was selected, {told['gap_confirmation']:.4f} where it was not"
            )
        return list(sizes)

    def pack(self, path: Path, budget: int, max_ms: float | None = None) -> dict[str, Any]:
        """Write the best ensemble that fits and measure the file on both halves of the validation videos.

        Returns:
            What is in it (`members`), `bytes`, `budget`, `ms` that a validation video took, reading included, and GAP:
            `gap_selection` on the half that selected the ensemble, `gap_confirmation` on the other.
        """
        frontier = self.frontier(max_ms)
        best_within(frontier, budget)
        members = self._write_the_best([ensemble for ensemble in frontier if ensemble.bytes <= budget], path, budget)
        predict, start = load(path).predict_batch, time.perf_counter()
        gaps = self.validation.gaps(self.validation.predictions(predict))
        ms = 1000 * (time.perf_counter() - start) / len(self.validation.labels_VC)
        return {"bytes": path.stat().st_size, "budget": budget, "ms": ms, "members": members, **gaps}

    def _write_the_best(self, fitting: Sequence[Ensemble], path: Path, budget: int) -> list[dict[str, Any]]:
        for ensemble in fitting[:0:-1]:
            # Its graph may take some bytes more than it was taken for; then the next smaller one.
            with suppress(BudgetError):
                return self.write(path, ensemble, budget)
        return self.write(path, fitting[0], budget)

    def write(self, path: Path, ensemble: Ensemble, budget: int) -> list[dict[str, Any]]:
        """Write an ensemble of the frontier; returns what is in the file.

        Raises:
            BudgetError: the file is larger than the budget.
        """
        chosen = zip(ensemble.candidates, ensemble.weights, strict=True)
        members = [PackedMember(self.choices[place].load(), weight) for place, weight in chosen]
        return write_graph(path, members, budget, portable=self._portable)

    def frontier(self, max_ms: float | None = None) -> list[Ensemble]:
        """The best ensembles by rising bytes and by the GAP that is expected of them."""
        if max_ms not in self._frontiers:
            common_bytes = metadata_bytes(self.info.spec, self.info.vocabulary)
            # Before the bar: what they may have to make has bars of its own.
            choices, held_out = self.choices, self._selecting
            with progress.counting_bar("searching ensembles") as show:
                self._frontiers[max_ms] = explore(
                    choices, held_out, common_bytes, max_ms, lambda looked_at: show(looked_at, looked_at), self._shares
                )
        return self._frontiers[max_ms]

    def told(self, ensemble: Ensemble) -> dict[str, Any]:
        """What the search knows of an ensemble without writing it: bytes, GAP on both halves, members."""
        chosen = [self.choices[place] for place in ensemble.candidates]
        return {
            "bytes": ensemble.bytes,
            "ms": ensemble.ms,
            "gap_selection": self._selecting.gap(ensemble.candidates, ensemble.weights),
            "gap_confirmation": self._confirming.gap(ensemble.candidates, ensemble.weights),
            "members": [
                {"name": choice.member, "weight": weight, "bits": choice.bits, "bytes": choice.bytes}
                for choice, weight in zip(chosen, ensemble.weights, strict=True)
            ],
        }

    @cached_property
    def _selecting(self) -> HeldOut:
        return self._held_out(slice(None, self.validation.selecting))

    @cached_property
    def _confirming(self) -> HeldOut:
        return self._held_out(slice(self.validation.selecting, None))

    def _held_out(self, videos: slice) -> HeldOut:
        members, choices = list(self.members), self.choices
        return HeldOut(
            [float_predictions(self._folder(name))[videos] for name in members],
            [choice.predictions()[videos] for choice in choices],
            [members.index(choice.member) for choice in choices],
            self.validation.labels_VC[videos],
        )

    def _folder(self, member: str) -> Path:
        return self.directory / "packing" / member

    def batches(self, patterns: Sequence[str]) -> Batches:
        """The videos of some shards in their order, as the run reads them."""
        return Batches(
            expand_shards(patterns),
            self.info.spec,
            len(self.info.vocabulary),
            BATCH_SIZE,
            skip_corrupt=self.data.skip_corrupt,
            labelled_only=self.data.unlabelled == "skip",
        )

    @cached_property
    def validation(self) -> Validation:
        """The videos that select and confirm."""
        return Validation(self.batches(self.data.validation))

    @cached_property
    def choices(self) -> list[Choice]:
        """The candidates of all members."""
        calibration = self.batches(self.data.train)
        return [
            choice
            for name, file in self.members.items()
            for choice in candidates_of(name, file, self._folder(name), calibration, self.validation)
        ]
