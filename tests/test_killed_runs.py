"""A run that is killed, and called again until it is finished, ends as one that never was."""

import json
import signal
from pathlib import Path
from random import Random

import pytest

from tests.corpus import MEAN_ALONE, write_recipe
from tests.lives import lives
from vidfit import load_recipe, run
from vidfit.training.checkpoint_manager import Checkpoints


class KilledError(Exception):
    """Stands for a kill."""


def test_a_run_killed_in_training_ends_as_if_never_killed(
    finished: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    promote = Checkpoints.promote

    def promote_and_die(self: Checkpoints) -> None:
        promote(self)
        raise KilledError

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoints, "promote", promote_and_die)
            with pytest.raises(KilledError):
                run(load_recipe(recipe_file), tmp_path / "killed")
    summary = run(load_recipe(recipe_file, MEAN_ALONE), tmp_path / "killed")
    assert summary["members"] == json.loads((finished / "summary.json").read_text())["members"]
    for name in ("mean", "vlad", "lstm"):
        for file in ("best.safetensors", "last.safetensors"):
            member = Path("members", name, file)
            assert (tmp_path / "killed" / member).read_bytes() == (finished / member).read_bytes()


def test_killed_again_and_again_ends_as_if_never_killed(corpus: Path, tmp_path: Path):
    """At random moments of all stages, by SIGKILL and by SIGTERM, until there is nothing left to do."""
    command = [
        "run",
        write_recipe(tmp_path, corpus),
        *("--set", "members={mean: {family: {type: mean}, head: {type: logistic}}}"),
        *("--set", "pack.members=[mean]"),
        *("--set", "distill={generations: 1, top_k: 3}"),
        *("--set", "training.steps=12", "--set", "training.validate_every=4"),
        *("--set", "training.averaging={steps: 8, learning_rate: 0.001, ema_decay: 0.875}"),
    ]
    # A checkpoint a step, so that most moments are in the midst of one.
    killed_command = [*command, "--set", "training.checkpoint_minutes=0.000001", "-o", tmp_path / "killed"]
    random, codes = Random(9), []
    with lives() as processes:
        assert processes.live(*command, "-o", tmp_path / "whole") == 0
        while not codes or codes[-1] != 0:
            number = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            codes.append(processes.kill(number, tmp_path / "killed", random, *killed_command))
            assert codes[-1] in (0, -signal.SIGKILL if number == signal.SIGKILL else 143)
            assert len(codes) < 100
    assert codes.count(-signal.SIGKILL) >= 3
    assert codes.count(143) >= 1
    for file in ("members/mean/best.safetensors", "members/mean/last.safetensors", "model.onnx", "summary.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
