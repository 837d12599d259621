"""The keys of `training` and the learning rate."""

import pytest
import torch
from pydantic import ValidationError

from vidfit.training.config import TrainingConfig, learning_rate


def test_the_learning_rate_is_a_staircase_of_examples():
    config = TrainingConfig(steps=9, batch_size=100, learning_rate=0.5, lr_decay=0.8, lr_decay_examples=250)
    assert [learning_rate(config, step) for step in range(6)] == pytest.approx([0.5, 0.5, 0.5, 0.4, 0.4, 0.32])


@pytest.mark.parametrize("ends", [{}, {"steps": 3, "epochs": 3}])
def test_either_steps_or_epochs(ends: dict[str, int]):
    with pytest.raises(ValidationError, match="give either steps or epochs"):
        TrainingConfig.model_validate(ends)


def test_mixup_needs_frames_in_pairs():
    with pytest.raises(ValidationError, match="mixup pairs frames"):
        TrainingConfig(steps=1, mixup=0.2, sampling="none")


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_one_cycle_is_that_of_pytorch():
    config = TrainingConfig(steps=90, learning_rate=0.002, schedule="one-cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=90)
    for step in range(90):
        assert learning_rate(config, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        if step < 89:
            theirs.step()


def test_one_cycle_needs_steps():
    with pytest.raises(ValidationError, match="schedule: one-cycle needs steps"):
        TrainingConfig(epochs=2, schedule="one-cycle")
