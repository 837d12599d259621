"""What the time allows: how long a training will take, measured by a few of its steps."""

import re
import time
from collections.abc import Iterator

import torch

from vidfit.errors import VidfitError
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.recipe import MemberConfig
from vidfit.run_data import RunData
from vidfit.training.train_step import TrainStep

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIMED_STEPS = 3


def parse_time(text: str) -> float:
    """Seconds of a time such as `90s`, `30m`, `1h`, `1.5h` or `2d`.

    Raises:
        VidfitError: it is none.
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*([smhd])\s*", text)
    if not match or float(match[1]) == 0:
        raise VidfitError(f"--time {text!r}: write a time such as 10m, 1h or 2d")
    return float(match[1]) * _UNITS[match[2]]


class Clock:
    """Seconds that are left of a limit.

    Arguments:
        limit: seconds in all.
        spent: seconds that earlier calls took.
    """

    def __init__(self, limit: float, spent: float = 0.0) -> None:
        self.limit, self._start = limit, time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds since the beginning, those of earlier calls included."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds; below 0 once the limit is passed."""
        return self.limit - self.spent


def seconds_per_step(member: MemberConfig, data: RunData) -> float:
    """How long a training step takes here, reading included. The fastest of a few, after one that warms up."""
    training = member.training
    batches = data.batches(data.shards["train"], batch_size=training.batch_size, shuffle_buffer=training.batch_size)
    step = TrainStep(data.member_info("timed", member).build(), training, 0)
    seconds, read = [], _endless(batches)
    for number in range(1 + _TIMED_STEPS):
        start = time.perf_counter()
        batch = next(read).to(step.device)
        step(batch, batch.multi_hot(len(data.vocabulary)), number, training.learning_rate)
        if step.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _endless(batches: Batches) -> Iterator[Batch]:
    while True:
        yield from batches
