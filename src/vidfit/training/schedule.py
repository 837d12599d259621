"""What follows from a recipe's `training`: the learning rate of each step, and which step is the last."""

import math

from vidfit.training.config import TrainingConfig
from vidfit.training.state import TrainingState


def learning_rate(config: TrainingConfig, state: TrainingState, step: int) -> float:
    """The learning rate of a step of the phase that `state` is in. Averaging has its own, the same for all steps.

    A staircase is multiplied by `lr_decay` after each `lr_decay_examples` videos. One cycle rises from 1/25 of
    `learning_rate` over 30% of the steps, and falls to 1/250,000 of it, both as a half cosine.

    Source: Smith & Topin 2018 (arXiv 1708.07120), as `torch.optim.lr_scheduler.OneCycleLR`, with its defaults.
    """
    if state.averaging and config.averaging:
        rate = config.averaging.learning_rate
    elif config.schedule == "staircase":
        rate = config.learning_rate * config.lr_decay ** (step * config.batch_size // config.lr_decay_examples)
    else:
        rate = _one_cycle(config, step)
    return rate / 2**state.halvings


def _one_cycle(config: TrainingConfig, step: int) -> float:
    assert config.steps is not None
    lowest, last = config.learning_rate / 25, config.steps - 1
    top = 0.3 * config.steps - 1
    if step <= top:
        start, end, done = lowest, config.learning_rate, step / top
    else:
        start, end, done = config.learning_rate, lowest / 1e4, min(1.0, (step - top) / max(last - top, 1e-9))
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def last_step(config: TrainingConfig, state: TrainingState) -> int | None:
    """The step that ends the training; None if epochs end it."""
    averaging = config.averaging
    if state.averaging and averaging:
        return state.begun + averaging.steps
    return config.steps and config.steps + (averaging.steps if averaging else 0)
