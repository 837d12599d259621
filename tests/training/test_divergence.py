"""A loss that is no number ends the training, or halves its learning rate; no checkpoint has ruined weights."""

from pathlib import Path

import pytest
import torch

from tests.training.toy import CONFIG, EVERY_STEP, alike, go, go_until, log_lines, same, weights
from vidfit.errors import RecipeError
from vidfit.features.batch import Batch
from vidfit.training.averaging import AveragingConfig
from vidfit.training.checkpoint import BEST, read_member
from vidfit.training.checkpoint_manager import BETWEEN, LAST
from vidfit.training.train_step import TrainStep

HALVE = CONFIG.model_copy(update={"on_nan": "halve"})


def diverge(monkeypatch: pytest.MonkeyPatch, at: int, above: float = 0.0) -> None:
    """Has a step end with a weight that is no number, at learning rates above a threshold; its loss still is one."""
    step = TrainStep.__call__

    def ruined(self: TrainStep, batch: Batch, targets_BC: torch.Tensor, number: int, learning_rate: float, *more):
        loss = step(self, batch, targets_BC, number, learning_rate, *more)
        if number + 1 == at and learning_rate > above:
            next(self.model.parameters()).data.view(-1)[0] = torch.nan
        return loss

    monkeypatch.setattr(TrainStep, "__call__", ruined)


def test_it_is_said_at_its_step(corpus: Path, tmp_path: Path):
    config = CONFIG.model_copy(update={"learning_rate": 1e20})
    with pytest.raises(RecipeError, match=r"^member m: the loss is nan at step 2; .* lower learning_rate or on_nan"):
        go(corpus, tmp_path, config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("at", "problem"), [(8, "the loss is nan at step 9"), (10, r"\S+ is not finite after step 10")]
)
def test_the_last_good_weights_are_kept(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, problem: str
):
    """At step 10 nothing but a look at the weights keeps the validation from being one of ruined weights."""
    diverge(monkeypatch, at)
    with pytest.raises(RecipeError, match=f"^member m: {problem}; training diverged"):
        go(corpus, tmp_path)
    for file in (BEST, LAST):
        info, tensors, _ = read_member(tmp_path / file)
        assert info.step == 5
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert [line["step"] for line in log_lines(tmp_path)] == [5]


def test_a_checkpoint_between_validations_is_none_of_ruined_weights(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    diverge(monkeypatch, 8)
    with pytest.raises(RecipeError, match=r"^member m: \S+ is not finite after step 8;"):
        go(corpus, tmp_path, EVERY_STEP)
    assert read_member(tmp_path / BETWEEN)[0].step == 7


def test_it_goes_back_to_the_last_validation_and_halves(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("vidfit.training.trainer.learning_rate", lambda _, __, step: 0.02 if step < 5 else 0.005)
        go(corpus, tmp_path / "expected")
    diverge(monkeypatch, 8, above=0.009)
    told = []
    go(corpus, tmp_path / "halved", HALVE, log=told.append)
    assert told == [
        f"member m: the loss is nan at step 9; back to step 5, with half the learning rate: {rate}"
        for rate in (0.01, 0.005)
    ]
    assert [line["lr"] for line in log_lines(tmp_path / "halved")] == [0.02, 0.005, 0.005, 0.005]
    for file in (BEST, LAST):
        assert same(weights(tmp_path / "halved", file), weights(tmp_path / "expected", file))
    # Neither checkpoints for the time's sake nor kills change where it goes back to.
    for stop_at in (7, 12):
        config = HALVE.model_copy(update={"checkpoint_minutes": EVERY_STEP.checkpoint_minutes})
        go_until(stop_at, corpus, tmp_path / str(stop_at), config)
        go(corpus, tmp_path / str(stop_at), config)
        assert alike(tmp_path / str(stop_at), tmp_path / "halved")


def test_an_absurd_learning_rate_is_halved_until_it_is_none(corpus: Path, tmp_path: Path):
    """Before the first validation it goes back to the beginning."""
    told = []
    go(corpus, tmp_path, HALVE.model_copy(update={"learning_rate": 1e9}), log=told.append)
    assert told[0].endswith("; back to step 0, with half the learning rate: 5e+08")
    assert log_lines(tmp_path)[-1]["lr"] == 1e9 / 2 ** len(told)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_halving_ends(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diverge(monkeypatch, 3)
    told = []
    with pytest.raises(RecipeError, match=r"the loss is nan at step 4, even with a learning rate halved 10 times$"):
        go(corpus, tmp_path, HALVE, log=told.append)
    assert len(told) == 10


def test_the_averaging_phase_halves_its_own_learning_rate(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full, half = (AveragingConfig(steps=10, learning_rate=rate, ema_decay=0.75) for rate in (0.005, 0.0025))
    go(corpus, tmp_path / "expected", CONFIG.model_copy(update={"averaging": half}))
    diverge(monkeypatch, 22, above=0.004)
    go(corpus, tmp_path / "halved", HALVE.model_copy(update={"averaging": full}))
    for file in (BEST, LAST):
        assert same(weights(tmp_path / "halved", file), weights(tmp_path / "expected", file))
