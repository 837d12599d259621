"""`training.log: tensorboard`, read by TensorBoard's own reader."""

import sys
from pathlib import Path

import pytest

from tests.conftest import Call
from tests.training.toy import CONFIG, StopError, alike, go, log_lines
from vidfit.models.classifier import ClassifierConfig
from vidfit.training.config import TrainingConfig

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TRACKED = CONFIG.model_copy(update={"log": "tensorboard"})


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard draws: value over step."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.parametrize("stop_at", [None, 12])
def test_tensorboard_draws_what_the_log_has(corpus: Path, tmp_path: Path, stop_at: int | None):
    if stop_at:
        with pytest.raises(StopError):
            go(corpus, tmp_path, TRACKED, stop_at=stop_at)
    go(corpus, tmp_path, TRACKED)
    for name in ("loss", "gap", "lr"):
        steps, values = zip(*[(line["step"], line[name]) for line in log_lines(tmp_path)], strict=True)
        found_steps, found = zip(*curve(tmp_path, name), strict=True)
        assert found_steps == steps == (5, 10, 15, 20)
        assert found == pytest.approx(values, rel=1e-6)


def test_a_solved_member_has_one_point(corpus: Path, tmp_path: Path):
    classifier = ClassifierConfig.model_validate({"family": {"type": "mean"}, "head": {"type": "logistic", "l2": 0.1}})
    config = TrainingConfig(solver="lbfgs", steps=50, batch_size=16, log="tensorboard")
    info = go(corpus, tmp_path, config, classifier=classifier)
    ((step, gap),) = curve(tmp_path, "gap")
    assert (step, gap) == (info.step, pytest.approx(info.gap_validation))


def test_tracking_does_not_change_the_training(corpus: Path, whole: Path, tmp_path: Path):
    go(corpus, tmp_path, TRACKED)
    assert alike(tmp_path, whole)
    assert not (whole / "tensorboard").exists()


def test_without_tensorboard_the_error_names_the_extra(
    vidfit: Call, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    code, _, err = vidfit("run", recipe_file, "-o", tmp_path / "run", "--set", "training.log=tensorboard")
    told = "vidfit: training.log: tensorboard is not installed; install it with: pip install 'vidfit[tracking]'\n"
    assert (code, err.splitlines(keepends=True)[-1]) == (2, told)
    assert not list(tmp_path.glob("run/members/*/*"))
