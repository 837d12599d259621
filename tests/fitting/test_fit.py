"""`vidfit fit`: what it leaves, what a second call does, what Ctrl-C keeps, and what it refuses."""

import errno
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

import vidfit
from tests.fitting.making import FRAMES, MEAN, SOLVED, TRAINING, two_members, write_features, write_names, write_videos
from tests.folders import times
from vidfit.cli import main
from vidfit.evaluation.thresholds import LEVELS
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.files import read_table
from vidfit.fitting import cross_validated, folds
from vidfit.fitting import fit as fitting
from vidfit.fitting.portfolio import Traits, portfolio
from vidfit.fitting.task import MemberSettings
from vidfit.progress import Progress, format_seconds
from vidfit.recipe import load_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 videos, 20 more to measure on, and their names; read only."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder / "data" / "a.tfrecord", 30, seed=1)
    write_videos(folder / "data" / "b.tfrecord", 30, seed=2)
    write_videos(folder / "eval" / "e.tfrecord", 20, seed=3)
    write_names(folder / "names.csv")
    return folder


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Two members, no rounds, two seeds."""
    patch.setattr(fitting, "portfolio", two_members)
    patch.setattr(fitting, "_MOST_MEMBERS", 2)
    patch.setattr(cross_validated, "_MOST_SEEDS", 2)


@pytest.fixture(autouse=True)
def small_portfolio(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def command(data: Path, folder: Path, **replaced: object) -> list[object]:
    options = {"--budget": "100kB", "--time": "1h", "--vocabulary": data / "names.csv"} | replaced
    given = [it for option, value in options.items() if value for it in (option, value)]
    return ["fit", data / "data", "--eval", data / "eval", "-o", folder, *given]


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves with the small portfolio, and `out.txt`, what it printed; read only."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr("sys.argv", ["vidfit", *map(str, command(data, folder))])
        with redirect_stdout(StringIO()) as out, suppress(SystemExit):
            main()
    (folder / "out.txt").write_text(out.getvalue())
    return folder


@pytest.fixture
def copy(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "run"))


def test_vidfit_fit_stays_a_function():
    assert callable(vidfit.fit)
    assert vidfit.fit is fitting.fit


def test_a_file_within_the_budget_is_left(fitted: Path):
    model = fitted / "model.onnx"
    assert model.stat().st_size <= 100_000
    assert f"{model}: {model.stat().st_size:,} bytes of 100,000" in (fitted / "out.txt").read_text()
    found = json.loads((fitted / "fit.json").read_text())
    assert list(found["tried"]) == ["mean", "frames"]
    assert 0.25 < found["tried"]["frames"]["gap_of_best"] <= 1
    assert len(list((fitted / "folds").iterdir())) == 5
    assert (fitted / "report.html").exists()


def test_the_file_has_the_thresholds_of_the_table(fitted: Path):
    model = vidfit.load(fitted / "model.onnx")
    assert model.thresholds is not None
    assert np.isin(model.thresholds, LEVELS).all()
    rows = read_table(fitted / "thresholds.csv")
    np.testing.assert_allclose([float(row["threshold"]) for row in rows], model.thresholds, atol=1e-6)


def test_precision_and_recall_of_the_table_fit_those_of_all(fitted: Path):
    rows, found = read_table(fitted / "thresholds.csv"), json.loads((fitted / "fit.json").read_text())["decisions"]
    videos = [video for shard in (fitted / "videos").glob("*.arrow") for video in read_videos(shard)]
    labels = np.concatenate([video.labels for video in videos if isinstance(video, Video)])
    positives = np.bincount(labels, minlength=len(rows))
    right = np.array([float(row["recall"]) for row in rows]) * positives
    given = right / [float(row["precision"] or 1) for row in rows]
    assert found["recall"] == pytest.approx(right.sum() / positives.sum(), abs=1e-3)
    assert found["precision"] == pytest.approx(right.sum() / given.sum(), abs=1e-3)


def test_the_report_shows_all_the_time_that_was_used(fitted: Path):
    seconds = json.loads((fitted / "fit.json").read_text())["seconds"]
    assert f"Time used: {format_seconds(seconds)} of 1 h." in (fitted / "report.html").read_text()


def thresholds(run: Path) -> np.ndarray:
    found = vidfit.load(run / "model.onnx").thresholds
    assert found is not None
    return found


@pytest.mark.parametrize("few", [True, False], ids=["cross-validated", "validated"])
def test_precision_moves_thresholds_and_trains_nothing(
    vidfit, few: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not few:
        monkeypatch.setattr(folds, "FEW_VIDEOS", 40)
        monkeypatch.setattr(folds, "_HELD_OUT", 0.7)
    assert vidfit(*command(data, tmp_path / "run"))[0] == 0
    before, trained = thresholds(tmp_path / "run"), times(tmp_path / "run" / "videos")
    code, _, err = vidfit(*command(data, tmp_path / "run", **{"--precision": "0.95"}))
    assert code == 0, err
    after = thresholds(tmp_path / "run")
    assert (after >= before).all()
    assert (after > before).any()
    assert times(tmp_path / "run" / "videos") == trained
    code, _, err = vidfit(*command(data, tmp_path / "run", **{"--precision": "90"}))
    assert (code, err.count("\n")) == (2, 1)
    assert "--precision 90: give a number above 0, at most 1, such as 0.9" in err


def test_the_recipe_runs_and_trains_nothing_again(vidfit, copy: Path):
    recipe = copy / "recipe.yaml"
    before, model = times(copy), (copy / "model.onnx").read_bytes()
    code, _, err = vidfit("run", recipe, "-o", copy)
    assert code == 0, err
    assert times(copy) == before
    (copy / "model.onnx").unlink()
    assert vidfit("run", recipe, "-o", copy)[0] == 0
    assert (copy / "model.onnx").read_bytes() == model


def test_a_second_call_trains_nothing_again(vidfit, data: Path, copy: Path):
    before, tried = times(copy), json.loads((copy / "fit.json").read_text())["tried"]
    code, _, err = vidfit(*command(data, copy))
    assert code == 0, err
    assert times(copy) == before
    assert json.loads((copy / "fit.json").read_text())["tried"] == tried


def test_another_budget_or_other_videos_are_refused(vidfit, data: Path, copy: Path, tmp_path: Path):
    before = times(copy)
    for call in (command(data, copy, **{"--budget": "200kB"}), command(data, copy)):
        if call[1] == data / "data" and "100kB" in call:
            call[1] = write_videos(tmp_path / "c.tfrecord", 60, seed=9)
        code, _, err = vidfit(*call)
        assert code == 2
        assert (
            err
            == f"vidfit: {copy}: holds the fit of other videos or intervals, or of another budget; choose another -o\n"
        )
    assert times(copy) == before


def test_intervals_of_a_folder_of_features_are_learned_from(vidfit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def seconds_alone(traits: Traits, fits: Callable[[MemberSettings], bool]) -> list[tuple[str, MemberSettings]]:
        found = {name: settings for name, settings in portfolio(traits, fits) if name.startswith("seconds")}
        settings = found["seconds-max"]
        return [("seconds-max", settings | {"training": settings["training"] | {"steps": 10}})]

    monkeypatch.setattr(fitting, "portfolio", seconds_alone)
    features = write_features(tmp_path / "features", 60)
    call = ("fit", features, "--budget", "100kB", "-o", tmp_path / "run")
    code, _, err = vidfit(*call)
    assert code == 0, err
    assert "segments.csv: members learn from it what holds in each second" in err
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert all(member.training.segments for member in recipe.members.values())
    assert vidfit(*call)[0] == 0
    table = features / "segments.csv"
    table.write_text(table.read_text().replace(",2\n", ",1\n"))
    code, _, err = vidfit(*call)
    assert code == 2
    assert "holds the fit of other videos or intervals, or of another budget" in err


def test_a_run_that_is_no_fit_is_left_alone(vidfit, data: Path, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    code, _, err = vidfit(*command(data, tmp_path))
    assert code == 2
    assert "holds a run that is no fit; choose another -o" in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def stop_after_the_first(progress: Progress) -> None:
    if progress.stage == "fitting":
        raise KeyboardInterrupt


def test_ctrl_c_packs_the_best_so_far_and_a_second_call_goes_on(data: Path, tmp_path: Path):
    given = (data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    summary = vidfit.fit(*given, on_progress=stop_after_the_first)
    assert list(summary["fit"]) == ["mean"]
    assert vidfit.load(tmp_path / "run" / "model.onnx").thresholds is not None
    before = times(tmp_path / "run" / "folds")
    assert list(vidfit.fit(*given)["fit"]) == ["mean", "frames"]
    after = times(tmp_path / "run" / "folds")
    assert {name: after[name] for name in before} == before


def test_a_fit_that_was_killed_in_the_middle_ends_the_same(data: Path, fitted: Path, tmp_path: Path):
    given = (data / "data", "100kB", tmp_path / "run", "1h", data / "eval", data / "names.csv")
    calls = 0

    def dies(progress: Progress) -> None:
        nonlocal calls
        calls += progress.stage == "frames"
        if calls > 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        vidfit.fit(*given, on_progress=dies)
    assert not (tmp_path / "run" / "model.onnx").exists()
    vidfit.fit(*given)
    assert (tmp_path / "run" / "model.onnx").read_bytes() == (fitted / "model.onnx").read_bytes()


def test_a_member_that_adds_nothing_is_given_up(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    hopeless = MEAN | {"training": TRAINING | {"learning_rate": 1e-9}}
    members = [*two_members(), ("hopeless", hopeless)]
    monkeypatch.setattr(fitting, "portfolio", lambda *_: members)
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)
    with caplog.at_level(logging.INFO, logger="vidfit"):
        vidfit.fit(data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    assert "hopeless: given up" in caplog.text
    assert "training the chosen on all 60 videos, each from up to 2 initial weights" in caplog.text
    tried = json.loads((tmp_path / "run" / "fit.json").read_text())["tried"]
    assert (tried["mean"]["trainings"], tried["hopeless"]["trainings"]) == (5, 2)
    assert tried["hopeless"]["gap_of_best"] == tried["frames"]["gap_of_best"]


@pytest.mark.parametrize("few", [True, False], ids=["cross-validated", "validated"])
def test_rounds_follow_with_variations(few: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 4)
    if not few:
        monkeypatch.setattr(folds, "FEW_VIDEOS", 40)
        monkeypatch.setattr(folds, "_HELD_OUT", 0.7)
    given = (data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    tried = list(vidfit.fit(*given)["fit"])
    assert [name.split("-")[1:2] for name in tried] == [[], [], ["2"], ["3"]]
    before = times(tmp_path / "run")
    assert list(vidfit.fit(*given)["fit"]) == tried
    assert times(tmp_path / "run") == before


def test_a_member_that_is_solved_is_trained_once_and_not_varied(data: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fitting, "portfolio", lambda *_: [("a", SOLVED), two_members()[1]])
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)

    def alike(predictions: dict, *_: object) -> tuple[dict[str, float], float]:
        return {name: 1 / len(predictions) for name in predictions}, 0.5

    monkeypatch.setattr(cross_validated, "choose", alike)
    given = (data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    a, frames, varied = vidfit.fit(*given)["fit"]
    assert (a, frames, varied.split("-")[0]) == ("a", "frames", "frames")
    weights = load_recipe(tmp_path / "run" / "recipe.yaml").pack.members
    each = {f"{name}{seed}": 1 / 6 for name in (frames, varied) for seed in ("", "-seed-2")}
    assert weights == pytest.approx({"a": 1 / 3} | each)


def test_a_fit_of_solved_members_alone_has_no_rounds(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "portfolio", lambda *_: [("a", SOLVED)])
    given = (data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    assert list(vidfit.fit(*given)["fit"]) == ["a"]


def test_a_round_that_has_little_time_trains_fewer_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)
    monkeypatch.setattr(fitting, "seconds_per_step", lambda *_: 1.0)
    left = itertools.count(6 * 1.2 * 0.75 * TRAINING["steps"], -5)

    def seconds(self: fitting.Fit) -> float:
        return 1e6 if len(self._state.tried) < 2 else next(left)

    monkeypatch.setattr(fitting.Fit, "_seconds_to_try", seconds)
    summary = vidfit.fit(data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    steps = [tried["member"]["training"]["steps"] for tried in summary["fit"].values()]
    assert steps[:2] == [TRAINING["steps"]] * 2
    assert 0 < steps[2] < TRAINING["steps"]


def test_a_fit_that_was_killed_in_a_comparison_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 3)
    monkeypatch.setattr(fitting, "variations", lambda *_: dict.fromkeys("ab", MEAN | {"training": TRAINING}))
    given = (data / "data", "100kB", tmp_path / "run", "1h", (), data / "names.csv")
    rate, rated = cross_validated.CrossValidated.rate_rival, set()

    def dies(self: cross_validated.CrossValidated, name: str, settings: dict) -> float:
        if len(rated) == 1:
            raise RuntimeError
        rated.add(name)
        return rate(self, name, settings)

    monkeypatch.setattr(cross_validated.CrossValidated, "rate_rival", dies)
    with pytest.raises(RuntimeError):
        vidfit.fit(*given)
    before = times(tmp_path / "run" / "folds")
    monkeypatch.setattr(cross_validated.CrossValidated, "rate_rival", rate)
    # A slower machine: less would be left for the steps.
    monkeypatch.setattr(fitting, "seconds_per_step", lambda *_: 3600 / 8 / TRAINING["steps"])
    assert list(vidfit.fit(*given)["fit"])[2] in ("a", "b")
    after = times(tmp_path / "run" / "folds")
    assert {name: after[name] for name in before} == before


def test_the_only_member_of_a_small_budget_is_varied(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "portfolio", lambda *_: two_members()[:1])
    given = (data / "data", "20kB", tmp_path / "run", "1h", (), data / "names.csv")
    assert [name.split("-")[0] for name in vidfit.fit(*given)["fit"]] == ["mean", "mean"]


def test_without_time_the_first_member_is_packed(vidfit, data: Path, tmp_path: Path):
    given = ("--budget", "100kB", "--time", "0.01s", "--vocabulary", data / "names.csv")
    code, out, err = vidfit("fit", data / "data", *given, "-o", tmp_path / "run")
    assert code == 0, err
    assert "GAP on videos that the members were not trained on: 0." in out
    assert "not tried: frames; the same command with a longer --time goes on" in err


def test_damaged_records_are_skipped_if_wanted(vidfit, data: Path, tmp_path: Path):
    content = bytearray((data / "data" / "a.tfrecord").read_bytes())
    content[400] ^= 1
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tfrecord").write_bytes(content)
    shutil.copy(data / "data" / "b.tfrecord", tmp_path / "data")
    call = command(data, tmp_path / "run")
    call[1] = tmp_path / "data"
    code, _, err = vidfit(*call)
    assert code == 2
    assert "a.tfrecord, record" in err
    assert "or use --skip-corrupt" in err
    assert not (tmp_path / "run").exists()
    assert vidfit(*call, "--skip-corrupt")[0] == 0
    assert (tmp_path / "run" / "model.onnx").exists()


def test_a_full_disk_is_told_and_leaves_no_file(vidfit, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("vidfit.training.checkpoint.save_file", full)
    code, _, err = vidfit(*command(data, tmp_path / "run"))
    assert code == 2
    assert "No space left on device" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_ctrl_c_at_once_in_a_second_call_loses_nothing(copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    before = (copy / "model.onnx").read_bytes()
    monkeypatch.setattr(fitting.Fit, "_try_members", stops)
    vidfit.fit(data / "data", "100kB", copy, "1h", data / "eval", data / "names.csv")
    assert (copy / "model.onnx").read_bytes() == before


def test_a_second_call_that_is_killed_leaves_the_figures(copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch):
    def dies(*_: object) -> None:
        raise RuntimeError

    before = json.loads((copy / "fit.json").read_text())["decisions"]
    monkeypatch.setattr(fitting.Fit, "_try_members", dies)
    with pytest.raises(RuntimeError):
        vidfit.fit(data / "data", "100kB", copy, "1h", data / "eval", data / "names.csv")
    assert json.loads((copy / "fit.json").read_text())["decisions"] == before != {}


def test_many_videos_are_validated_by_a_part(vidfit, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folds, "FEW_VIDEOS", 40)
    monkeypatch.setattr(folds, "_HELD_OUT", 0.7)
    code, _, err = vidfit(*command(data, tmp_path / "run"))
    assert code == 0, err
    assert "some are set apart, and measure members" in err
    assert "on half of those set apart (" in err
    assert (tmp_path / "run" / "model.onnx").stat().st_size <= 100_000
    assert not (tmp_path / "run" / "folds").exists()
    before = times(tmp_path / "run")
    assert vidfit("run", tmp_path / "run" / "recipe.yaml", "-o", tmp_path / "run")[0] == 0
    assert times(tmp_path / "run") == before


def test_members_above_half_of_the_budget_are_passed_over(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    large = FRAMES | {"encoder": {"hidden": [4000]}, "training": TRAINING}
    monkeypatch.setattr(fitting, "portfolio", lambda *_: [("mean", MEAN | {"training": TRAINING}), ("large", large)])
    monkeypatch.setattr(fitting, "_MOST_MEMBERS", 1)
    summary = vidfit.fit(data / "data", "50kB", tmp_path / "run", "1h", (), data / "names.csv")
    assert list(summary["fit"]) == ["mean"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"--budget": "11kB"}, "--budget: no member fits; the smallest file takes about 1"),
        ({"--budget": "much"}, "budget 'much': write a number of bytes"),
        ({"--time": "soon"}, "--time 'soon': write a time such as 10m, 1h or 2d"),
        ({"--vocabulary": None}, "--vocabulary: shards have numbers for labels; give the CSV with their names"),
        ({"--eval": "nothing"}, "shards 'nothing': no file matches"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(vidfit, data: Path, tmp_path: Path, replaced: dict, message: str):
    code, _, err = vidfit(*command(data, tmp_path / "run", **replaced))
    assert code == 2
    assert err.startswith(f"vidfit: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_run_folder(vidfit, data: Path, tmp_path: Path):
    (tmp_path / "run").write_text("mine")
    code, _, err = vidfit(*command(data, tmp_path / "run"))
    assert code == 2
    assert "is a file, not a folder; choose another name" in err
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "cannot be read"), ("[]", "cannot be read"), ('{"settings": 1}', "is of another version of vidfit")],
)
def test_a_fit_that_cannot_be_resumed_is_named(vidfit, data: Path, tmp_path: Path, text: str, message: str):
    (tmp_path / "fit.json").write_text(text)
    code, _, err = vidfit(*command(data, tmp_path))
    assert code == 2
    assert f"fit.json: {message}" in err
    assert err.count("\n") == 1
