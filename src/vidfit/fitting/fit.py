"""From labelled videos to the best file of a number of bytes: design members, train what the time allows, pack.

    RUN/recipe.yaml      what was decided; `vidfit run` takes it
    RUN/fit.json         what was tried, and what it gave
    RUN/features/        features of videos, if videos were given
    RUN/videos/          the videos in parts (folds.py)
    RUN/folds/K/         trainings without part K
    RUN/model.onnx, report.html, ...   as of every run (pipeline.py)

Few videos are cross-validated: every member is trained once without each part, and predicts it. The members chosen by
these predictions are trained again on all videos. Of many videos a part validates, and the search for bit widths and
weights (`search/`) chooses among the members.

A second call with the same output goes on. Ctrl-C ends the trying: what there is is packed.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vidfit.errors import BudgetError, OutputError, reason
from vidfit.evaluation.thresholds import LEVELS, LevelCounts
from vidfit.evaluation.thresholds import choose as choose_levels
from vidfit.export.metadata import metadata_bytes
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.features.survey import digests
from vidfit.files import write_table, write_text
from vidfit.fitting.choice import choose
from vidfit.fitting.clock import Clock, parse_time, seconds_per_step
from vidfit.fitting.dataset import Dataset, find_dataset, read_dataset
from vidfit.fitting.folds import divide
from vidfit.fitting.portfolio import Traits, portfolio
from vidfit.locks import locked
from vidfit.pipeline import Run
from vidfit.preflight import count_parameters
from vidfit.progress import OnProgress, Progress, silent
from vidfit.quantization.member import load_member
from vidfit.recipe import MemberConfig, Recipe
from vidfit.search.candidates import member_bytes
from vidfit.search.carried import carried_bytes, extractor_in_8_bits, known_extractor
from vidfit.search.run_members import RunMembers
from vidfit.search.search import Search
from vidfit.sizes import format_size, parse_size
from vidfit.training.checkpoint import BEST
from vidfit.training.signals import STOPS
from vidfit.training.validation import predict

FIT = "fit.json"
THRESHOLDS = "thresholds.csv"
# A training that must be cut below this part of its steps is left out.
_LEAST_STEPS = 0.4
# Part of the time that packing and measuring may take.
_RESERVE = 0.1
_FRAMES_OF = 200
# Bytes of a graph that are no weights, for each member; generous.
_GRAPH_BYTES = 15_000
_MOST_MEMBERS = 40
_MOST_SEEDS = 5

log = logging.getLogger(__name__)


def fit(
    data: str | Path | Sequence[str | Path],
    budget: str,
    output: Path | str,
    time: str = "1h",
    eval: str | Path | Sequence[str | Path] = (),
    vocabulary: Path | str | None = None,
    on_progress: OnProgress = silent,
    with_extractor: bool = False,
) -> dict[str, Any]:
    """Find, train and pack the best model of a number of bytes.

    Arguments:
        data: a folder of features of `vidfit extract`, shards, or labelled videos (a folder or a table).
        budget: most bytes of the file: `10MB`.
        output: the run folder; created if missing, resumed if it exists.
        time: how long it may take: `10m`, `1h`, `2d`. Extraction and measuring on `eval` come on top.
        eval: shards to measure the file on, at the end.
        vocabulary: label names, a CSV; needed for shards.
        on_progress: called a few times a second.
        with_extractor: put the models for pictures and sounds into the file too, in 8 bits.

    Returns:
        The summary, as `vidfit.run`.

    Raises:
        VidfitError: the data or the budget do not allow it, or the folder is another fit's.
    """
    directory = Path(output)
    seconds, size = parse_time(time), parse_size(budget)
    with locked(directory):
        dataset = find_dataset(_texts(data), _texts(eval), vocabulary, directory, on_progress)
        return Fit(dataset, size, seconds, directory, on_progress, with_extractor).run()


class Fit:
    """One fit in one folder. Arguments are those of `fit`, read."""

    def __init__(
        self,
        dataset: Dataset,
        budget: int,
        seconds: float,
        directory: Path,
        on_progress: OnProgress,
        with_extractor: bool = False,
    ) -> None:
        self._dataset, self._budget, self._directory, self._on_progress = dataset, budget, directory, on_progress
        self._data = data = read_dataset(dataset, on_progress)
        self._videos = sum(data.surveys[shard].videos for shard in dataset.shards)
        vocabulary = data.vocabulary
        settings = {"budget": budget, "data": digests(dataset.shards, data.surveys), "vocabulary": vocabulary.names}
        if with_extractor:
            settings["with_extractor"] = True
        self._state = _State(directory / FIT, settings)
        self._clock = Clock(seconds, self._state.spent)
        self._with_extractor = with_extractor
        self._common_bytes = metadata_bytes(data.spec, vocabulary.names, data.extractor)
        if with_extractor:
            carried = extractor_in_8_bits(known_extractor(data.extractor))
            self._common_bytes = carried_bytes(carried, data.spec, vocabulary.names)
        self._room = budget - self._common_bytes  # for members
        self._traits = Traits(
            videos=self._videos,
            classes=len(vocabulary),
            size=data.spec.total_size,
            frames=typical_frames(dataset.shards),
            budget=max(self._room, 1),
        )
        self._check_budget()
        # Before the parts: those of other videos must not be taken for these.
        self._state.save(self._clock.spent)
        self._parts = divide(dataset.shards, self._videos, directory / "videos")
        self._cross_validated = len(self._parts) > 2
        self._kept: dict[str, np.ndarray] = {}
        self._bytes: dict[str, int] = {}
        # How much longer a member takes than its training steps: reading, predicting, searching.
        self._overhead = 1.2
        self._each = 1.0  # seconds of a step of the member that is tried, in all its trainings
        log.info(
            "%s videos, %d labels, %d frames: %s",
            f"{self._videos:,}",
            len(vocabulary),
            self._traits.frames,
            f"cross-validated in {len(self._parts)} parts" if self._cross_validated else "a part of them validates",
        )

    def run(self) -> dict[str, Any]:
        """Try members, choose, train again what was chosen, pack."""
        if self._cross_validated:
            for name, tried in self._state.tried.items():  # by an earlier call
                self._kept[name] = self._out_of_fold(name, tried["member"])
        try:
            self._try_members()
        except STOPS:
            if not self._state.tried:
                raise
            log.warning("stopped trying; packing the best so far (once more to stop at once)")
        finally:
            self._state.save(self._clock.spent)
        run = Run(self._final_recipe(), self._directory, on_progress=self._on_progress)
        return run.all() | {"fit": self._state.tried}

    def _try_members(self) -> None:
        for name, settings in islice(portfolio(self._traits), _MOST_MEMBERS):
            if name not in self._state.begun:
                # None takes more than half, so that there is an average; unless there is no smaller one.
                if self._least_bytes(settings) > self._room / (2 if self._state.begun else 1):
                    continue
                if (cut := self._within_time(settings)) is None:
                    if name[-1].isdigit():
                        return  # what comes takes as long
                    continue
                self._state.begun[name] = cut
                self._state.save(self._clock.spent)
            if name not in self._kept:
                self._try(name, self._state.begun[name])

    def _check_budget(self) -> None:
        least = min(self._least_bytes(settings) for _, settings in islice(portfolio(self._traits), _MOST_MEMBERS))
        if least > self._room:
            size = format_size(self._common_bytes + least)
            raise BudgetError(f"--budget: no member fits; the smallest file takes about {size}")

    def _least_bytes(self, settings: dict[str, Any]) -> int:
        """About what this member takes in a file, in 8 bits."""
        member = MemberConfig.model_validate(settings)
        weights = count_parameters("tried", member, self._data.spec, self._traits.classes)
        return weights + _GRAPH_BYTES

    def _within_time(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The settings, with fewer steps if there is too little time; None if far too little."""
        member, steps = MemberConfig.model_validate(settings), settings["training"]["steps"]
        self._each = seconds_per_step(member, self._data) * (len(self._parts) + 1 if self._cross_validated else 1)
        again = self._seconds_again(self._state.tried) if self._cross_validated else 0
        reserved = _RESERVE * self._clock.limit + again
        left = self._clock.left - reserved
        possible = int(left / (self._each * self._overhead))
        if possible < _LEAST_STEPS * steps and self._state.tried:
            return None
        return settings | {"training": settings["training"] | {"steps": max(1, min(steps, possible))}}

    def _try(self, name: str, settings: dict[str, Any]) -> None:
        """Train a member and see what the best average gains by it."""
        start = self._clock.spent
        if self._cross_validated:
            self._kept[name] = self._out_of_fold(name, settings)
        else:
            self._train(name, settings)
        seconds = round(self._clock.spent - start, 1)
        self._state.tried.setdefault(name, {"member": settings, "seconds": seconds})
        chosen, gap = self._choice() if self._cross_validated else self._searched()
        if not self._cross_validated:
            estimate = self._each * settings["training"]["steps"]
            self._overhead = max(self._overhead, (self._clock.spent - start) / estimate)
        self._state.tried[name]["gap_of_best"] = gap
        self._state.save(self._clock.spent)
        log.info("%s: the best average has GAP %.4f with %s", name, gap, ", ".join(chosen))
        self._on_progress(Progress("fitting", len(self._state.tried), None, "members", f"GAP {gap:.4f}"))

    @property
    def _members(self) -> dict[str, Any]:
        """What was tried, as a recipe has it."""
        return {name: tried["member"] for name, tried in self._state.tried.items()}

    @property
    def _shards(self) -> list[Path]:
        """All parts, one after another."""
        return [shard for part in self._parts for shard in part]

    def _seconds_again(self, names: Iterable[str]) -> float:
        """What trainings on all videos will take, by those without a part."""
        return sum(self._state.tried[name]["seconds"] for name in names) / len(self._parts)

    # Few videos

    def _out_of_fold(self, name: str, settings: dict[str, Any]) -> np.ndarray:
        """What members that have not seen a video say of it, float32 `[V, C]`, part by part."""
        predictions = []
        for number, part in enumerate(self._parts):
            folder = self._directory / "folds" / str(number)
            others = [shard for place, other in enumerate(self._parts) if place != number for shard in other]
            run = Run(self._recipe({name: settings}, others, []), folder, on_progress=self._on_progress)
            run.train(name)
            classifier = load_member(folder / "members" / name / BEST).classifier()
            predictions += [predict(classifier, batch) for batch in run.data.batches(part)]
        return np.concatenate(predictions)

    def _choice(self) -> tuple[dict[str, float], float]:
        for name in self._kept.keys() - self._bytes.keys():
            member = load_member(self._directory / "folds" / "0" / "members" / name / BEST)
            self._bytes[name] = member_bytes(member.quantized()) + _GRAPH_BYTES
        return choose(self._kept, self._labels_VC, self._bytes, self._room)

    @cached_property
    def _labels_VC(self) -> np.ndarray:
        """Of the videos, part by part, bool `[V, C]`."""
        labels = np.zeros((self._videos, self._traits.classes), bool)
        read = (video for shard in self._shards for video in read_videos(shard) if isinstance(video, Video))
        for row, video in enumerate(read):
            labels[row, video.labels] = True
        return labels

    # Many videos

    def _train(self, name: str, settings: dict[str, Any]) -> None:
        recipe = self._recipe(self._members | {name: settings}, self._parts[0], self._parts[1])
        Run(recipe, self._directory, members=[name], on_progress=self._on_progress).train(name)

    def _searched(self) -> tuple[list[str], float]:
        """Members of the best ensemble within the budget, and its GAP on the half of validation that confirms."""
        recipe = self._recipe(self._members, self._parts[0], self._parts[1])
        search = Search(RunMembers.read(self._directory, recipe), self._on_progress)
        fitting = [ensemble for ensemble in search.frontier() if ensemble.bytes <= self._budget]
        if not fitting:
            return [], 0.0
        best = search.describe(fitting[-1])
        return [member["name"] for member in best["members"]], best["gap_confirmation"]

    # The recipe

    def _final_recipe(self) -> Recipe:
        """What was decided."""
        if not self._cross_validated:
            return self._recipe(self._members, self._parts[0], self._parts[1], eval=self._dataset.eval)
        chosen, gap = self._choice()
        if not chosen:
            least = format_size(self._common_bytes + min(self._bytes.values()))
            raise BudgetError(f"--budget: no member fits; the smallest file takes {least}")
        log.info("trained again on all videos: %s (GAP %.4f on videos not seen)", ", ".join(chosen), gap)
        self._write_thresholds(chosen)
        seeds = self._seeds(list(chosen))
        names = {name if seed == 1 else f"{name}-seed-{seed}": name for seed in range(1, seeds + 1) for name in chosen}
        weights = {name: chosen[of] / seeds for name, of in names.items()}
        members = {name: self._members[of] for name, of in names.items()}
        return self._recipe(members, self._shards, [], eval=self._dataset.eval, weights=weights)

    def _seeds(self, chosen: list[str]) -> int:
        """From how many initial weights each member is trained on all videos, as bytes and time allow.

        Their average errs less than one of them; with few videos, initial weights matter much.
        """
        key = " ".join(chosen)
        if key in self._state.seeds:  # a second call has less time, and is to find the same
            return self._state.seeds[key]
        takes = self._seconds_again(chosen)
        fit = self._room // sum(self._bytes[name] for name in chosen)
        self._state.seeds[key] = max(1, min(_MOST_SEEDS, fit, int(self._clock.left / (takes * self._overhead))))
        self._state.save(self._clock.spent)
        return self._state.seeds[key]

    def _write_thresholds(self, weights: dict[str, float]) -> None:
        """Of each label, chosen by what members that have not seen a video say of it."""
        counts, labels_VC = LevelCounts(self._traits.classes), self._labels_VC
        blend_VC = sum(weight * self._kept[name] for name, weight in weights.items())
        counts.update(np.asarray(blend_VC), np.nonzero(labels_VC)[1], labels_VC.sum(axis=1))
        rows = zip(self._data.vocabulary.names, LEVELS[choose_levels(counts.result())], strict=True)
        write_table(self._directory / THRESHOLDS, ("label", "threshold"), [(name, f"{it:.6f}") for name, it in rows])

    def _recipe(
        self,
        members: dict[str, Any],
        train: Sequence[Path],
        validation: Sequence[Path],
        eval: Sequence[Path] = (),
        weights: dict[str, float] | None = None,
    ) -> Recipe:
        sets = {"train": train, "validation": validation, "eval": eval}
        of_frames = any(member["family"]["type"] == "frame-classifier" for member in members.values())
        pack: dict[str, Any] = {"budget": str(self._budget), "frame_probabilities": of_frames}
        if self._with_extractor:
            pack["with_extractor"] = True
        if not validation:
            pack["members"] = weights or dict.fromkeys(members, 1.0)
        if weights:
            pack["thresholds"] = str((self._directory / THRESHOLDS).resolve())
        return Recipe.model_validate(
            {
                "data": {name: [str(shard.resolve()) for shard in shards] for name, shards in sets.items() if shards}
                | {"vocabulary": str(self._dataset.vocabulary.resolve())},
                "members": members,
                "pack": pack,
            }
        )


class _State:
    """What was tried, in `fit.json`, and whether it belongs to this data and budget."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, json.loads(json.dumps(settings))
        self.begun: dict[str, dict[str, Any]] = {}
        self.tried: dict[str, dict[str, Any]] = {}
        self.seeds: dict[str, int] = {}
        self.spent = 0.0
        try:
            saved = json.loads(path.read_bytes())
            own, self.begun, self.tried = saved["settings"], saved["begun"], saved["tried"]
            self.seeds, self.spent = saved["seeds"], saved["seconds"]
        except FileNotFoundError:
            if (path.parent / "recipe.yaml").exists():
                raise OutputError(f"{path.parent}: holds a run that is no fit; choose another -o") from None
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: cannot be read ({reason(error)}); choose another run folder") from error
        if own != self._settings:
            raise OutputError(f"{path.parent}: holds the fit of other videos or another budget; choose another -o")

    def save(self, spent: float) -> None:
        document = {
            "settings": self._settings,
            "seconds": round(spent, 1),
            "begun": self.begun,
            "tried": self.tried,
            "seeds": self.seeds,
        }
        write_text(self._path, json.dumps(document, indent=2) + "\n")


def typical_frames(shards: Sequence[Path]) -> int:
    """The median of the first videos."""
    counts = []
    for shard in shards:
        for video in read_videos(shard):
            if isinstance(video, Video):
                counts.append(video.num_frames)
            if len(counts) >= _FRAMES_OF:
                return int(np.median(counts))
    return int(np.median(counts))


def _texts(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]
