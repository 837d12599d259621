"""Tell the caller of a training how it goes, a few times per second."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vidfit.features.skipped import Skipped
from vidfit.training.state import TrainingState

_SECONDS = 0.25


@dataclass
class Progress:
    """Where the training of a member stands."""

    step: int
    steps: int | None
    """In all; None if epochs end the training."""
    loss: float
    videos_per_second: float
    gap: float | None
    """GAP of the last validation, None before the first."""
    skipped: Skipped
    """What was skipped in an epoch."""


class ProgressMeter:
    """Counts videos, and calls back when it is time.

    Arguments:
        on_progress: called a few times per second.
    """

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._started, self._shown, self._videos = time.monotonic(), 0.0, 0

    def update(
        self, state: TrainingState, steps: int | None, loss: Tensor, videos: int, gap: float | None, *, now: bool
    ) -> None:
        """Count the videos of a step; `now` calls back in any case."""
        self._videos += videos
        # Reading the loss waits for a GPU, so not after every step.
        if now or time.monotonic() - self._shown > _SECONDS:
            self._shown = time.monotonic()
            rate = self._videos / (self._shown - self._started)
            skipped = Skipped(state.skipped, state.skipped_bytes)
            self._on_progress(Progress(state.step, steps, loss.item(), rate, gap, skipped))
