"""The learning rate of each step."""

import pytest
import torch

from vidfit.training.config import TrainingConfig
from vidfit.training.schedule import learning_rate
from vidfit.training.state import TrainingState


def test_the_learning_rate_is_a_staircase_of_examples():
    config = TrainingConfig(steps=9, batch_size=100, learning_rate=0.5, lr_decay=0.8, lr_decay_examples=250)
    rates = [learning_rate(config, TrainingState(), step) for step in range(6)]
    assert rates == pytest.approx([0.5, 0.5, 0.5, 0.4, 0.4, 0.32])


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_one_cycle_is_that_of_pytorch():
    config = TrainingConfig(steps=90, learning_rate=0.002, schedule="one-cycle")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=90)
    for step in range(90):
        assert learning_rate(config, TrainingState(), step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        if step < 89:
            theirs.step()
