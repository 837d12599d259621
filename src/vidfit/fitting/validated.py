"""Many videos: a part of them validates. Each member is trained once, and a search chooses."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vidfit.fitting.clock import Clock
from vidfit.fitting.state import State
from vidfit.fitting.task import MemberSettings, Task
from vidfit.pipeline import Run
from vidfit.recipe import Recipe
from vidfit.search.run_members import RunMembers
from vidfit.search.search import Search

# Of its steps, when a member is only compared with its rivals.
_SHARE_OF_STEPS = 0.25


class Validated:
    """Members are judged by videos that are set apart; `CrossValidated` has the same methods.

    Arguments:
        task: what is fitted.
        train, validation: its videos.
        state: members that were tried.
    """

    trainings, trainings_of_rival = 1.0, _SHARE_OF_STEPS
    packing = 0.1
    """Part of the time that packing may take."""
    described = "some are set apart, and measure members that learn from the others"
    measured = "on half of those set apart"
    unfinished: frozenset[str] = frozenset()
    """Members with fewer trainings than they should have: none."""

    def __init__(self, task: Task, train: list[Path], validation: list[Path], state: State) -> None:
        self._task, self._train, self._validation, self._state = task, train, validation, state
        self._chosen: tuple[list[str], tuple[dict[str, float], float]] | None = None
        self._seconds_to_search = 0.0

    def restore(self) -> None:
        """What an earlier call trained is found by the search."""

    def try_member(self, name: str, settings: MemberSettings, _: Callable[[], bool]) -> int:
        """Train a member. Returns 1, the trainings it took."""
        recipe = self._recipe(self._state.members | {name: settings})
        Run(recipe, self._task.directory, members=[name], on_progress=self._task.on_progress).train(name)
        return 1

    def rate_rival(self, name: str, settings: MemberSettings) -> float:
        """Validation GAP after a quarter of the steps."""
        training = settings["training"]
        fewer = {key: max(1, round(training[key] * _SHARE_OF_STEPS)) for key in ("steps", "validate_every")}
        recipe = self._recipe({name: settings | {"training": training | fewer}})
        run = Run(recipe, self._task.directory / "rivals", overwrite=True, on_progress=self._task.on_progress)
        return run.train(name)["gap_validation"]

    def choose(self, members: Mapping[str, MemberSettings]) -> tuple[dict[str, float], float]:
        """Members of the best ensemble within the budget with weights, and its GAP on the half that confirms."""
        if self._chosen is None or self._chosen[0] != list(members):
            self._chosen = list(members), self._search(members)
        return self._chosen[1]

    def _search(self, members: Mapping[str, MemberSettings]) -> tuple[dict[str, float], float]:
        search = Search(RunMembers.read(self._task.directory, self._recipe(members)), self._task.on_progress)
        _ = search.candidates  # made here and kept, so they do not count as time of the search
        start = time.monotonic()
        fitting = [ensemble for ensemble in search.frontier() if ensemble.bytes <= self._task.budget]
        self._seconds_to_search = time.monotonic() - start
        if not fitting:
            return {}, 0.0
        best = search.describe(fitting[-1])
        return {member["name"]: member["weight"] for member in best["members"]}, best["gap_confirmation"]

    def seconds_to_finish(self) -> float:
        """Nothing is trained again, but the packing searches once more."""
        return self._seconds_to_search

    def final_recipe(self, _: Clock) -> Recipe:
        """All members; packing chooses."""
        return self._recipe(self._state.members, self._task.dataset.eval)

    def _recipe(self, members: Mapping[str, MemberSettings], eval: list[Path] | None = None) -> Recipe:
        return self._task.recipe(members, self._train, self._validation, eval or ())
