"""What the time allows: how long a training will take, measured by a few of its steps."""

import re
import time
from collections.abc import Iterator
from itertools import islice

import torch

from vidfit.errors import VidfitError
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.preflight import check_segments
from vidfit.recipe import MemberConfig
from vidfit.run_data import RunData
from vidfit.training.lbfgs import linear_problem
from vidfit.training.targets import targets_of
from vidfit.training.train_step import TrainStep

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# So many steps are timed at least: on a busy machine a single one tells little.
_TIMED_STEPS, _TIMED_SECONDS = 3, 0.2
# L-BFGS computes the loss more than once where its line search goes too far.
_LOSSES_PER_ITERATION = 1.25


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
    """Seconds that are left of a limit, which begins now.

    Arguments:
        limit: seconds in all.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self._start = limit, time.monotonic()

    def add(self, seconds: float) -> None:
        """Count what earlier calls took."""
        self._start -= seconds

    @property
    def spent(self) -> float:
        """Seconds since the beginning, those of earlier calls included."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds; below 0 once the limit is passed."""
        return self.limit - self.spent


class TimeUp(KeyboardInterrupt):
    """The time is over in the middle of a training, which stops as after Ctrl-C: a longer `--time` resumes it."""


def seconds_per_step(member: MemberConfig, data: RunData) -> float:
    """How long a training step takes here and now, reading included: the mean of some, after one that warms up."""
    training = member.training
    if training.solver == "lbfgs":
        return _seconds_per_iteration(member, data)
    clips = check_segments("timed", training, data) if training.segments else None
    size, classes = training.batch_size, len(data.vocabulary)
    batches = data.batches(data.shards["train"], batch_size=size, shuffle_buffer=size, clips=clips)
    step = TrainStep(data.member_info("timed", member).build(), training, 0)
    seconds, number, read = 0.0, 0, _endless(batches)
    while number <= _TIMED_STEPS or seconds < _TIMED_SECONDS:
        start = time.perf_counter()
        batch = next(read).to(step.device)
        targets_BC, weights_BC, parts_N3 = targets_of(batch, batches, classes, None)
        step(batch, targets_BC, number, training.learning_rate, weights_BC, parts_N3)
        if step.device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            seconds += time.perf_counter() - start
        number += 1
    return seconds / (number - 1)


def _seconds_per_iteration(member: MemberConfig, data: RunData) -> float:
    """Of `solver: lbfgs`, from a few batches: the loss of pooled videos, and a share of reading and pooling them."""
    shards, training = data.shards["train"], member.training
    assert training.steps is not None
    model = data.member_info("timed", member).build()
    start = time.perf_counter()
    batches = islice(data.batches(shards, batch_size=training.batch_size), _TIMED_STEPS)
    problem, _ = linear_problem(model, batches, lambda batch: batch.multi_hot(len(data.vocabulary)))
    problem.loss().item()  # warms up; a GPU is waited for
    pooling = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(_TIMED_STEPS):
        problem.loss().item()
    loss = (time.perf_counter() - start) / _TIMED_STEPS
    times_as_many = sum(data.surveys[shard].videos for shard in shards) / problem.videos
    return times_as_many * (_LOSSES_PER_ITERATION * loss + pooling / training.steps)


def _endless(batches: Batches) -> Iterator[Batch]:
    while True:
        yield from batches
