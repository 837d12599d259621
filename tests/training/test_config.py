"""The keys of `training`."""

import pytest
from pydantic import ValidationError

from vidfit.training.config import TrainingConfig


@pytest.mark.parametrize("ends", [{}, {"steps": 3, "epochs": 3}])
def test_either_steps_or_epochs(ends: dict[str, int]):
    with pytest.raises(ValidationError, match="give either steps or epochs"):
        TrainingConfig.model_validate(ends)


def test_mixup_needs_frames_in_pairs():
    with pytest.raises(ValidationError, match="mixup pairs frames"):
        TrainingConfig(steps=1, mixup=0.2, sampling="none")


def test_one_cycle_needs_steps():
    with pytest.raises(ValidationError, match="schedule: one-cycle needs steps"):
        TrainingConfig(epochs=2, schedule="one-cycle")
