"""From labelled videos to the best file of a number of bytes: design members, train what the time allows, pack.

    RUN/recipe.yaml      what was decided; `vidfit run` takes it
    RUN/fit.json         what was tried, and what it gave
    RUN/features/        features of videos, if videos were given
    RUN/videos/          the videos in parts (folds.py)
    RUN/folds/K/         trainings without part K
    RUN/model.onnx, report.html, ...   as of every run (pipeline.py)

First come the members of the portfolio. Then rounds: one that the best average has comes again, in three variations.
The best of them after a short comparison is tried in full.

A second call with the same output resumes. Ctrl-C stops trying, and the best so far is packed.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vidfit.errors import BudgetError, VidfitError
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.features.survey import digests
from vidfit.files import file_digest
from vidfit.fitting.budget import check_budget
from vidfit.fitting.clock import Clock, TimeUp, parse_time, seconds_per_step
from vidfit.fitting.cross_validated import CrossValidated
from vidfit.fitting.dataset import complete_intervals, find_dataset, read_dataset
from vidfit.fitting.folds import divide
from vidfit.fitting.portfolio import Traits, is_solved, original, portfolio, variations
from vidfit.fitting.state import State
from vidfit.fitting.task import MemberSettings, Task
from vidfit.fitting.validated import Validated
from vidfit.locks import locked
from vidfit.pipeline import Run
from vidfit.progress import OnProgress, Progress, format_seconds, silent
from vidfit.recipe import MemberConfig
from vidfit.sizes import count_of, format_size, parse_size
from vidfit.training.signals import STOPS
from vidfit.videos.extractor import steps_per_second

# A training that must be cut below this part of its steps is left out, but for the first.
_LEAST_STEPS = 0.25
# How much longer the steps of a training take than those that are timed before it: some time to spare.
_MARGIN = 1.2
_FRAMES_OF = 200
_MOST_MEMBERS = 40

log = logging.getLogger(__name__)


def fit(
    data: str | Path | Sequence[str | Path],
    budget: str,
    output: Path | str,
    time: str = "1h",
    eval: str | Path | Sequence[str | Path] = (),
    vocabulary: Path | str | None = None,
    skip_corrupt: bool = False,
    on_progress: OnProgress = silent,
    with_extractor: bool = False,
    precision: float | None = None,
) -> dict[str, Any]:
    """Find, train and pack the best model of a number of bytes.

    Arguments:
        data: a folder of features of `vidfit extract`, shards, or labelled videos (a folder or a table).
        budget: most bytes of the file: `10MB`.
        output: the run folder; created if missing, resumed if it exists.
        time: how long it may take: `10m`, `1h`, `2d`. Extraction and measuring on `eval` come on top.
        eval: shards to measure the file on, at the end.
        vocabulary: label names, a CSV; needed for shards.
        skip_corrupt: skip damaged records.
        on_progress: called a few times a second.
        with_extractor: put the models for pictures and sounds into the file too, in 8 bits.
        precision: what the labels' thresholds are to reach, such as 0.9, on videos that were not trained on. None
            means the best F1.

    Returns:
        The summary, as `vidfit.run`.

    Raises:
        VidfitError: the data or the budget do not allow it, or the folder is another fit's.
    """
    directory = Path(output)
    seconds, size = parse_time(time), parse_size(budget)
    if precision is not None and not 0 < precision <= 1:
        raise VidfitError(f"--precision {precision:g}: give a number above 0, at most 1, such as 0.9")
    check_budget(budget, _texts(data), with_extractor)
    with locked(directory):
        dataset = find_dataset(_texts(data), _texts(eval), vocabulary, directory, on_progress)
        clock = Clock(seconds)
        read = read_dataset(dataset, skip_corrupt, on_progress)
        return Fit(Task(dataset, read, size, directory, on_progress, with_extractor, precision), clock).run()


class Fit:
    """One fit in one folder.

    Arguments:
        task: what is fitted.
        clock: how long it may take.
    """

    def __init__(self, task: Task, clock: Clock) -> None:
        self._on_progress = task.on_progress
        self._task = task = replace(task, on_progress=self._watch)
        data, shards = task.data, task.dataset.shards
        origin = {"budget": task.budget, "data": digests(shards, data.surveys), "vocabulary": data.vocabulary.names}
        if task.with_extractor:
            origin["with_extractor"] = True
        frames, rate = most_frames(shards), steps_per_second(data.extractor, shards)
        seconds = math.ceil(1 / rate)  # at least a frame
        intervals = complete_intervals(task.dataset, data, rate, seconds) if frames > 1 else None
        if intervals:
            origin["intervals"] = file_digest(intervals)
        self._state = State(task.directory, origin)
        self._clock, self._state.limit = clock, clock.limit
        clock.add(self._state.spent)
        traits = Traits(
            videos=task.videos,
            classes=len(data.vocabulary),
            size=data.spec.total_size,
            frames=frames,
            intervals=str(intervals.resolve()) if intervals else None,
            seconds=seconds,
        )
        self._portfolio = dict(portfolio(traits, self._leaves_half))
        self._check_budget()
        # Before the parts: those of other videos must not be taken for these.
        self._state.save()
        parts = divide(shards, task.videos, task.directory / "videos", data.skip_corrupt, task.unlabelled)
        two = len(parts) == 2
        self._judge = (
            Validated(task, parts[0], parts[1], self._state) if two else CrossValidated(task, parts, self._state)
        )
        self._tried_now: str | None = None  # the member that time is spent on
        # By member that this call tries: seconds of a step, and seconds of a training besides its steps.
        self._step_seconds: dict[str, float] = {}
        self._beside: list[float] = []
        log.info(
            "%s, %s: %s",
            *(count_of(task.videos, "video"), count_of(len(data.vocabulary), "label"), self._judge.described),
        )

    def run(self) -> dict[str, Any]:
        """Try members, choose, train again what was chosen, pack."""
        self._judge.restore()
        try:
            self._try_members()
        except TimeUp as stopped:
            log.info("time is up; a longer --time resumes %s", stopped)
        except STOPS:
            if not self._state.tried:
                raise
            log.warning("stopped trying; packing the best so far (once more to stop at once)")
        finally:
            self._spend()
            self._state.untried = self._untried()
            self._state.save()
        if self._state.untried:
            log.warning("not tried: %s; the same command with a longer --time goes on", ", ".join(self._state.untried))
        chosen, gap = self._judge.choose(self._state.members)
        weights = ", ".join(f"{name} {weight:.0%}" for name, weight in chosen.items())
        log.info("chosen: %s (GAP %.4f %s)", weights, gap, self._judge.measured)
        run = Run(self._judge.final_recipe(self._clock), self._task.directory, on_progress=self._task.on_progress)
        summary = run.do_all()
        self._spend()
        self._state.save()
        run.report()
        return summary | {"fit": self._state.tried, "decisions": self._state.decisions}

    def _try_members(self) -> None:
        # Again as long as it leads to something: what there was no time for may fit, if the machine is faster now.
        while self._try_portfolio():
            pass
        for name in self._state.rounds:
            self._try(name)
        while len(self._state.tried) < _MOST_MEMBERS and self._has_time() and (name := self._next_round()):
            self._try(name)

    def _try_portfolio(self) -> bool:
        """Try the members of the portfolio that bytes and time allow. Returns whether there were any."""
        before = len(self._state.tried)
        for name, settings in self._portfolio.items():
            if name not in self._state.begun:
                if not self._is_small(settings) or (cut := self._within_time(name, settings)) is None:
                    continue
                if (steps := cut["training"]["steps"]) < (planned := settings["training"]["steps"]):
                    log.info("%s: %d steps instead of %d, for time is short", name, steps, planned)
                self._state.begun[name] = cut
                self._state.save()  # a second call must try the same
            self._try(name)
        return len(self._state.tried) > before

    def _untried(self) -> list[str]:
        """Members of the portfolio that there was no time for."""
        tried = self._state.tried
        return [name for name, it in self._portfolio.items() if name not in tried and self._is_small(it)]

    def _leaves_half(self, settings: MemberSettings) -> bool:
        """Whether a member takes at most half of the bytes, so that there is an average."""
        return self._task.least_bytes(settings) <= self._task.room / 2

    def _is_small(self, settings: MemberSettings) -> bool:
        """Whether a member leaves half of the bytes to others, or is no larger than one that did not."""
        if self._leaves_half(settings):
            return True
        begun = map(self._task.least_bytes, self._state.begun.values())
        return self._task.least_bytes(settings) <= max(begun, default=self._task.room)

    def _check_budget(self) -> None:
        least = min(map(self._task.least_bytes, self._portfolio.values()))
        if least > self._task.room:
            size = format_size(self._task.common_bytes + least)
            raise BudgetError(f"--budget: no member fits; the smallest file takes about {size}")

    def _within_time(self, name: str, settings: MemberSettings, trainings: float = 0.0) -> MemberSettings | None:
        """The settings, with fewer steps if there is too little time; None if far too little.

        Arguments:
            name, settings: of a member.
            trainings: how many more there are, beside its own.
        """
        if self._state.tried and not self._has_time():
            return None
        self._step_seconds[name] = seconds_per_step(MemberConfig.model_validate(settings), self._task.data)
        training = self._seconds_to_try() / (self._judge.trainings + trainings) - min(self._beside, default=0.0)
        possible = int(training / (_MARGIN * self._step_seconds[name]))
        steps = settings["training"]["steps"]
        least = math.ceil(_LEAST_STEPS * steps)
        if possible < least:
            if self._state.tried:
                return None
            log.warning("--time is too short to train even one member well; give more")
        return settings | {"training": settings["training"] | {"steps": min(steps, max(least, possible))}}

    def _seconds_to_try(self) -> float:
        """What is left of the time for trying; below 0 once it is over."""
        return self._clock.left - self._seconds_to_pack() - self._judge.seconds_to_finish()

    def _seconds_to_pack(self) -> float:
        return self._judge.packing * self._clock.limit

    def _has_time(self) -> bool:
        self._spend()
        return self._seconds_to_try() > 0

    def _spend(self) -> None:
        """Count the time, up to the limit: measuring on `eval` comes on top."""
        spent = min(self._clock.spent, self._clock.limit)
        self._state.spend(max(spent, self._state.spent), self._tried_now)

    def _time_used(self) -> str:
        return f"{format_seconds(self._state.spent)} of {format_seconds(self._clock.limit)}"

    def _watch(self, progress: Progress) -> None:
        """Pass progress on, count the time, and stop a member for which there is none left, unless it is the first."""
        self._on_progress(progress)
        self._spend()
        # Half of the reserve may help a member to its end.
        if self._tried_now and self._state.tried and self._seconds_to_try() < -self._seconds_to_pack() / 2:
            raise TimeUp(self._tried_now)

    @contextmanager
    def _trying(self, name: str) -> Iterator[None]:
        """The time within is the member's, and ends it once it is over."""
        self._spend()
        self._tried_now = name
        try:
            yield
        finally:
            self._spend()
            self._tried_now = None

    def _try(self, name: str) -> None:
        """Train a member and see what the best average gains by it, unless that is done or there is no time."""
        tried = self._state.tried
        if tried and (not self._has_time() or (name in tried and name not in self._judge.unfinished)):
            return
        settings = self._state.begun[name]
        with self._trying(name):
            trainings = self._judge.try_member(name, settings, self._has_time)
            chosen, gap = self._judge.choose(self._state.members | {name: settings})
        seconds = self._state.seconds[name]
        tried.pop(name, None)  # the last is the newest
        tried[name] = {"member": settings, "trainings": trainings, "seconds": round(seconds, 1), "gap_of_best": gap}
        if name in self._step_seconds and not is_solved(settings):  # which may need fewer steps
            steps = settings["training"]["steps"] * self._step_seconds[name]
            self._beside.append(max(0.0, seconds / trainings - steps))
        self._state.save()
        log.info(
            "%s: the best average so far has GAP %.4f %s (%s); %s used",
            *(name, gap, self._judge.measured, ", ".join(chosen), self._time_used()),
        )
        self._task.on_progress(Progress("fitting", len(tried), None, "members", f"GAP {gap:.4f}"))

    def _next_round(self) -> str | None:
        """The best variation of a member that the best average has. None if time is up, or all are solved exactly."""
        number = len(self._state.rounds)
        weights = self._judge.choose(self._state.members)[0]
        varied = [name for name, settings in self._state.members.items() if not is_solved(settings)]
        # A second call must find the same, so ties keep the order of trying.
        bases = sorted((name for name in varied if name in weights), key=weights.__getitem__, reverse=True) or varied
        if not bases:
            return None
        base = bases[number % len(bases)]
        rivals = self._rivals(base, number + 2)
        if not rivals:
            return None
        rated = {}
        for name, settings in rivals.items():
            with self._trying(name):
                rated[name] = self._judge.rate_rival(name, settings)
        best = max(rated, key=rated.__getitem__)
        compared = ", ".join(f"{name} {gap:.4f}" for name, gap in rated.items())
        log.info("%s varied, GAP after a short comparison: %s; %s is tried in full", base, compared, best)
        self._state.rounds.append(best)
        self._state.save()
        return best

    def _rivals(self, base: str, number: int) -> dict[str, MemberSettings]:
        """The variations of a member that bytes and time allow, with the steps that time allows."""
        member = self._state.members[base]
        # Those of the portfolio, though the member may have had fewer.
        training = member["training"] | {"steps": self._portfolio[original(base)]["training"]["steps"]}
        varied = variations(base, member | {"training": training}, number)
        small = {name: it for name, it in varied.items() if self._is_small(it)}
        begun = {name: self._state.begun[name] for name in small if name in self._state.begun}
        if begun:  # an earlier call was stopped while it compared them
            return begun
        others = self._judge.trainings_of_rival * (len(small) - 1)
        rivals = {name: cut for name, it in small.items() if (cut := self._within_time(name, it, others))}
        self._state.begun |= rivals
        self._state.save()
        return rivals


def most_frames(shards: Sequence[Path]) -> int:
    """Of the longest of some videos, from all shards alike."""
    each = math.ceil(_FRAMES_OF / len(shards))
    videos = [(video for video in read_videos(shard) if isinstance(video, Video)) for shard in shards]
    return max(video.num_frames for own in videos for video in islice(own, each))


def _texts(given: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]
