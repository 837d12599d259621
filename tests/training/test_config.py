"""The keys of `training` and the learning rate."""

import pytest
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
