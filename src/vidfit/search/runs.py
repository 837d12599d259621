"""Pack trained runs: the best file for a number of bytes, of one run or of several.

Runs of the same videos may differ in their extractor, say in the size of the model for pictures. Two extractors share
no file. So a file is written for each run and each form of its extractor. The best on the selecting half is kept.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vidfit.errors import BudgetError, OutputError, VidfitError
from vidfit.files import make_folder, replacing, temporary, write_text
from vidfit.locks import locked
from vidfit.progress import OnProgress, silent
from vidfit.search.budget import best_within
from vidfit.search.carried import Form
from vidfit.search.packer import Packer, open_run
from vidfit.search.run_members import check_same_labels, check_same_videos
from vidfit.sizes import count_of, format_size, parse_size

_log = logging.getLogger("vidfit")

# What is kept of each file that was tried.
_SCORES = ("bytes", "gap_selection", "gap_confirmation")


def pack(
    run: Path | str | Sequence[Path | str],
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
        run: folder of a trained run. With extractor, it may be several, of the same videos and labels: the file comes
            from the run that is best on the validation videos.
        budget: most bytes of the finished file: `1GB` (10^9), `1GiB`, `20MB`, ...
        max_ms: most milliseconds per video, in batches on this machine. None means no limit.
        overwrite: replace an existing file.
        portable: use only standard ONNX operators. Weights of less than 8 bits then take 8 in memory.
        members: names of the members to pack with equal weights; only bit widths are searched then. None searches
            members and weights too.
        with_extractor: put the models for pictures and sounds into the file. The budget holds for all.
        on_progress: called a few times a second.

    Returns:
        The file, `RUN/packed/BUDGET.onnx`, in the first run. `BUDGET.json` in the same folder has its members and
        scores.

    Raises:
        BudgetError: nothing fits. The message has the size of the smallest possible file.
        ModelFileError: no member is trained, one is damaged or has other labels than the rest, or runs do not fit
            together.
        DataError: there are too few validation videos to select by.
        OutputError: the file exists already, or another process uses the run folder.
    """
    paths = [run] if isinstance(run, Path | str) else run
    options = {"portable": portable, "members": members, "with_extractor": with_extractor}
    return open_runs(paths, **options, on_progress=on_progress).pack_named([budget], max_ms, overwrite)[0]


def open_runs(
    runs: Sequence[Path | str],
    *,
    portable: bool = False,
    members: Sequence[str] | None = None,
    with_extractor: bool = False,
    on_progress: OnProgress = silent,
) -> "Runs":
    """Run folders to choose among, by the recipes in them. For the arguments see `pack`.

    Raises:
        ModelFileError, DataError: as `pack`.
    """
    if len(runs) > 1 and not with_extractor:
        raise VidfitError(
            "a file of several runs must hold the models that its features need; add --with-extractor, or give one run"
        )
    options = {"portable": portable, "members": members, "with_extractor": with_extractor}
    return Runs([open_run(run, **options, on_progress=on_progress) for run in runs])


class Runs:
    """Runs to choose among. Files and results go to the first one's folder.

    Attributes:
        packers: of each run.

    Raises:
        ModelFileError: runs have other labels or other validation videos.
    """

    def __init__(self, packers: Sequence[Packer]) -> None:
        first, *others = self.packers = packers
        self.directory, self.search, self.on_progress = first.directory, first.search, first.on_progress
        for other in others:
            check_same_labels(first.search.members, other.search.members)
        self.check_same_videos("validation")

    def check_same_videos(self, which: str) -> None:
        """Raises ModelFileError where runs have other `validation` or `eval` videos."""
        for other in self.packers[1:]:
            check_same_videos(self.search.members, other.search.members, which)

    def pack_named(self, budgets: Sequence[str], max_ms: float | None = None, overwrite: bool = False) -> list[Path]:
        """Write one file per budget, `RUN/packed/BUDGET.onnx`; see `pack`."""
        folder = self.directory / "packed"
        sizes = {folder / f"{budget.replace(' ', '')}.onnx": parse_size(budget) for budget in budgets}
        for path in sizes:
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: exists already; give another budget or add --overwrite")
        with self.locked():
            for size in sizes.values():
                self._check(size, max_ms)  # an error here leaves no file
            make_folder(folder)
            for path, size in sizes.items():
                self._pack_named(path, size, max_ms)
        return list(sizes)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folders of all runs, where candidates are kept."""
        with ExitStack() as stack:
            for packer in self.packers:
                stack.enter_context(locked(packer.directory))
            yield

    def _pack_named(self, path: Path, size: int, max_ms: float | None) -> None:
        with replacing(path) as partial:
            packed, packer, form = self.pack(partial, size, max_ms)
            packer.set_thresholds(partial, form)
            path.with_suffix(".json").unlink(missing_ok=True)  # it describes the file that is replaced now
        write_text(path.with_suffix(".json"), json.dumps(packed, indent=2) + "\n")
        _log.info(
            "%s: %s in %s%s, validation GAP %.4f on the selecting half, %.4f on the confirming half",
            *(path, count_of(len(packed["members"]), "member"), format_size(packed["bytes"])),
            f", of {packed['run']} with {packed['models']}" if form else "",
            *(packed["gap_selection"], packed["gap_confirmation"]),
        )

    def pack(self, path: Path, budget: int, max_ms: float | None = None) -> tuple[dict[str, Any], Packer, Form | None]:
        """Write the best file that fits, and measure it on both halves of the validation videos.

        Returns:
            What `Packer.pack` gives, the run that was chosen, and the form of its extractor that the file carries. With
            extractor, the first also has `run`, its `models` in words, `extractor` (bits by modality) and `tried`: the
            same, with bytes and both GAPs, of each run and form of its extractor.
        """
        self._check(budget, max_ms)
        chosen: tuple[dict[str, Any], Packer, Form | None] | None = None
        tried, problem = [], None
        with temporary(path.parent) as this, temporary(path.parent) as best:
            for packer, form in self._choices():
                try:
                    result = packer.pack(this, budget, max_ms, form)
                except BudgetError as error:
                    problem = error
                    if form:
                        _log.info("%s, %s: left out, %s", packer.directory, form.title, error)
                    continue
                if form:
                    of = {"run": str(packer.directory), "models": form.title, "extractor": form.bits}
                    tried.append(of | {key: result[key] for key in _SCORES})
                    result |= of
                    _log.info("%s: validation GAP %.4f on the selecting half", form.title, result["gap_selection"])
                if chosen is None or result["gap_selection"] > chosen[0]["gap_selection"]:
                    chosen = result, packer, form
                    this.replace(best)
            if chosen is None:
                assert problem
                raise problem
            best.replace(path)
        found, packer, form = chosen
        return found | {"tried": tried} if tried else found, packer, form

    @property
    def with_extractor(self) -> bool:
        """Whether files carry the extractor."""
        return None not in self.packers[0].forms

    @property
    def limits(self) -> tuple[int, int]:
        """Bytes of the smallest and of the largest file."""
        ends = [
            packer.bytes_of(packer.search.frontier()[end], form) for packer, form in self._choices() for end in (0, -1)
        ]
        return min(ends), max(ends)

    def _choices(self) -> list[tuple[Packer, Form | None]]:
        return [(packer, form) for packer in self.packers for form in packer.forms]

    def _check(self, budget: int, max_ms: float | None) -> None:
        """Raises BudgetError if not even the smallest file fits."""
        if not self.with_extractor:
            best_within(self.search.frontier(max_ms), budget)
            return
        fits_in_time, too_slow = [], []
        for packer in self.packers:
            try:
                smallest = packer.search.frontier(max_ms)[0]
            except BudgetError as error:
                too_slow.append(f"{packer.directory}: {error}")
                continue
            fits_in_time += [(packer.bytes_of(smallest, form), form.title) for form in packer.forms if form]
        if not fits_in_time:
            raise BudgetError("; ".join(too_slow))
        smallest, title = min(fits_in_time)
        if smallest > budget:
            raise BudgetError(
                f"no file with extractor fits {budget:,} bytes ({format_size(budget)}): the smallest possible, with "
                f"{title}, takes {smallest:,}; raise the budget, or pack without extractor"
            )
