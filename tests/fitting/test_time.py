"""Time of `vidfit fit`: what is stopped once it is over, and what counts, by a clock that the tests move."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vidfit
from tests.fitting.making import SOLVED, TRAINING, two_members, write_names, write_videos
from vidfit.fitting import clock, cross_validated, folds
from vidfit.fitting import fit as fitting
from vidfit.progress import Progress

STEPS = TRAINING["steps"]


class FakeTime:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def passing(self, seconds: Callable[[Progress], float]) -> Callable[[Progress], None]:
        """A callback after which so many seconds are over."""

        def on_progress(progress: Progress) -> None:
            self.now += seconds(progress)

        return on_progress


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Two members, no rounds; a step of `mean` takes a tenth of a second, and one of the other ten."""
    monkeypatch.setattr(fitting, "portfolio", two_members)
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 2)
    monkeypatch.setattr(cross_validated, "_MOST_SEEDS", 1)
    monkeypatch.setattr(fitting, "seconds_per_step", lambda member, _: 0.1 if member.family.type == "mean" else 10.0)
    fake = FakeTime()
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Fits 60 videos in `tmp_path/run`."""
    write_videos(tmp_path / "data" / "a.tfrecord", 60)
    write_names(tmp_path / "names.csv")
    given = {"vocabulary": tmp_path / "names.csv"}
    return lambda time, **more: vidfit.fit(tmp_path / "data", "100kB", tmp_path / "run", time, **given, **more)


def validate_with_a_part(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folds, "FEW_VIDEOS", 40)
    patch.setattr(folds, "_HELD_OUT", 0.7)


def last_step(progress: Progress) -> bool:
    return progress.unit == "steps" and progress.done == progress.total


@pytest.mark.parametrize("few", [True, False], ids=["cross-validated", "validated"])
def test_a_training_ends_with_the_time_and_is_resumed(few: bool, fit, time, tmp_path, monkeypatch):
    if not few:
        validate_with_a_part(monkeypatch)
    stopped = fit("1h", on_progress=time.passing(lambda progress: 3600 if progress.stage == "frames" else 0))
    assert list(stopped["fit"]) == ["mean"]
    assert (tmp_path / "run" / "model.onnx").exists()
    steps = []
    resumed = fit("2h", on_progress=lambda progress: steps.append(progress.done) if progress.unit == "steps" else None)
    assert list(resumed["fit"]) == ["mean", "frames"]
    assert 1 < steps[0] < STEPS


@pytest.fixture
def all_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """No member is given up."""
    monkeypatch.setattr(cross_validated.CrossValidated, "_adds", lambda *_: True)


@pytest.mark.usefixtures("all_add")
def test_parts_that_were_predicted_in_time_are_kept(fit, time):
    took = time.passing(lambda progress: 1000 * last_step(progress) if progress.stage == "frames" else 0)
    assert fit("1h", on_progress=took)["fit"]["frames"]["trainings"] == 2
    assert fit("10h")["fit"]["frames"]["trainings"] == 5


@pytest.mark.usefixtures("all_add")
def test_a_first_member_without_time_is_finished_later(fit, time):
    took = time.passing(lambda progress: 100 * last_step(progress))
    assert fit("1m", on_progress=took)["fit"]["mean"]["trainings"] == 1
    assert [it["trainings"] for it in fit("10h")["fit"].values()] == [5, 5]


def test_no_member_is_begun_after_the_time(fit, time):
    fit("1m", on_progress=time.passing(lambda progress: 100 * last_step(progress)))
    assert list(fit("1m")["fit"]) == ["mean"]


def test_a_slow_start_takes_no_steps_from_others(fit, time):
    """`mean` takes five times as long as its steps. Of 18 minutes enough is left for the other."""
    took = time.passing(lambda progress: 6 * last_step(progress) if progress.stage == "mean" else 0)
    tried = fit("1100s", on_progress=took)["fit"]
    assert tried["mean"]["seconds"] == 30
    assert tried["frames"]["member"]["training"]["steps"] == STEPS


@pytest.mark.usefixtures("all_add")
def test_what_ends_early_does_not_hide_a_slow_start(fit, time, monkeypatch):
    """`mean` takes a minute beside its steps, and so will the other. `a` took less than its steps could have."""
    monkeypatch.setattr(fitting, "portfolio", lambda *_: [("a", SOLVED), *two_members()])
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)
    took = time.passing(lambda progress: 60 * last_step(progress) if progress.stage == "mean" else 0)
    assert fit("1310.5s", on_progress=took)["fit"]["frames"]["member"]["training"]["steps"] == 7


def test_what_had_no_time_is_tried_once_the_machine_is_faster(fit, time, monkeypatch):
    """The second of three members is timed while the machine is busy, the third no more."""
    (mean, _), (_, frames) = two_members()
    members = [two_members()[0], ("slow", frames), ("fast", two_members()[0][1])]
    monkeypatch.setattr(fitting, "portfolio", lambda *_: members)
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)
    timed = iter([0.1, 1000.0, 0.1, 0.1])
    monkeypatch.setattr(fitting, "seconds_per_step", lambda *_: next(timed))
    assert list(fit("1h")["fit"]) == [mean, "fast", "slow"]


def test_a_round_has_all_steps_again(fit, time, monkeypatch):
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)
    monkeypatch.setattr(fitting, "seconds_per_step", lambda *_: 1.0)
    left = lambda self: 1e6 if len(self._state.tried) > 1 else 6 * 1.2 * (STEPS // 2 + 0.5)  # noqa: E731
    monkeypatch.setattr(fitting.Fit, "_seconds_to_try", left)
    tried = fit("1h")["fit"].values()
    assert [it["member"]["training"]["steps"] for it in tried] == [STEPS // 2, STEPS // 2, STEPS]


def test_time_before_a_kill_counts(fit, time, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validated, "_PARTS_TO_PROVE", 5)  # none is given up
    file, taken, saved = tmp_path / "run" / "fit.json", [], ""

    def seconds(progress: Progress) -> float:
        nonlocal saved
        taken.append(10.0 * (progress.stage == "frames") * last_step(progress))
        if sum(taken) > 20 and not saved:
            saved = file.read_text()
            raise RuntimeError
        return taken[-1]

    with pytest.raises(RuntimeError):
        fit("1d", on_progress=time.passing(seconds))
    taken.pop()
    file.write_text(saved)  # a kill has no time to write
    tried = fit("1d", on_progress=time.passing(seconds))["fit"]
    # The third training was done before the kill, but its seconds were not written.
    assert tried["frames"]["seconds"] == sum(taken) == 40
    assert json.loads(file.read_text())["seconds"] == 40


def test_a_shorter_time_does_not_lose_the_count(fit, time, tmp_path):
    fit("1h", on_progress=time.passing(lambda progress: 100 * last_step(progress)))
    seconds = json.loads((tmp_path / "run" / "fit.json").read_text())["seconds"]
    fit("1m")
    assert json.loads((tmp_path / "run" / "fit.json").read_text())["seconds"] == seconds >= 500


def test_too_short_a_time_is_told(fit, time, caplog):
    tried = fit("1s", on_progress=time.passing(lambda _: 1.0))["fit"]
    assert tried["mean"]["member"]["training"]["steps"] == STEPS // 4
    assert "--time is too short to train even one member well; give more" in caplog.text


def test_time_is_left_for_the_search_of_the_packing(fit, time, monkeypatch):
    validate_with_a_part(monkeypatch)
    took = time.passing(lambda progress: 2000 if progress.stage == "searching" and progress.done == 1 else 0)
    assert list(fit("1h", on_progress=took)["fit"]) == ["mean"]
