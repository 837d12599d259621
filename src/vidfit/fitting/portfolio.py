"""The members that `fit` tries, in order: what gave most for its time on many data sets comes first.

Linear models lead, so that no result is below them. If the data are small enough they are solved exactly, with several
penalties: which one is best depends on the data. If a table says when each label holds, frame classifiers that learn it
second by second come next: nothing gives more. Then come families that make other mistakes, because their average is
packed. With many labels, a frame classifier takes long: it decides about each frame. Families that pool first then come
before it. At the end, the members of the best average come again, varied. `benchmarks/portfolio.py` has the table
behind the order.

Sizes and steps follow from the data. With few videos, members are small, with strong dropout and many passes. With many
videos it is the opposite. A member that would take too many bytes becomes narrower.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from vidfit.fitting.task import MemberSettings

# Frames, and ratings of a label in a second, that a step holds in memory: some 100 MB and 600 MB.
_MOST_FRAMES, _MOST_RATINGS = 20_000, 20_000_000
# Fewer videos in a step learn badly.
_FEWEST_IN_BATCH = 16
# No hidden layer is made narrower than this to save bytes.
_LEAST_WIDTH = 16
# Products of a linear model for one look at every video. With the first number, solving it takes a minute and 400 MB;
# with the second, a second.
_MOST_TO_SOLVE, _FEW_TO_SOLVE = 5e9, 1e8


@dataclass(frozen=True)
class Traits:
    """What the members' sizes follow from.

    Attributes:
        videos: to train on.
        classes: C.
        size: D, bytes or floats of a frame.
        frames: of the longest videos.
        intervals: a table of when each label of each video holds, if there is one.
        seconds: the whole seconds in which members learn from it what holds.
    """

    videos: int
    classes: int
    size: int
    frames: int
    intervals: str | None = None
    seconds: int = 1

    @property
    def batch_size(self) -> int:
        return _rising(self.videos, {0: 64, 1_000: 128, 10_000: 256, 100_000: 512, 1_000_000: 1024})

    @property
    def videos_with_intervals(self) -> int:
        """How many of them, whole and with all their ratings, a step may hold in memory."""
        return min(self.batch_size, _MOST_FRAMES // self.frames, _MOST_RATINGS // (self.frames * self.classes))

    @property
    def passes(self) -> float:
        """How often a training sees each video."""
        return min(40.0, max(3.0, 40 * (1_000 / self.videos) ** (1 / 3)))

    @property
    def hidden(self) -> int:
        """Size of a hidden layer that these videos bear."""
        return _rising(self.videos, {0: 256, 1_000: 512, 10_000: 1024, 200_000: 2048})

    @property
    def products(self) -> int:
        """Multiplications of a linear model in a pass over all videos. With few classes, memory is the limit."""
        return self.videos * self.size * max(self.classes, 50)

    @property
    def decides_dearly(self) -> bool:
        """Whether a decision about a frame costs more than its hidden layer: there are many labels."""
        return 2 * self.classes > self.size

    @property
    def are_long(self) -> bool:
        """Whether a training draws some frames of each video."""
        return self.frames > 60

    @property
    def steps(self) -> int:
        """Batches of these passes, and no fewer than weights need to get anywhere."""
        return max(240, round(self.passes * self.videos / self.batch_size))


def portfolio(traits: Traits, fits: Callable[[MemberSettings], bool]) -> Iterator[tuple[str, MemberSettings]]:
    """Names and settings of members, as a recipe has them.

    Arguments:
        traits: of the data.
        fits: whether a member may take its bytes. What is too large has hidden layers of a half, a quarter, ...
    """
    for name, build in _members(traits):
        hidden = traits.hidden
        while hidden > _LEAST_WIDTH and not fits(build(hidden)):
            hidden //= 2
        yield name, build(hidden)


def _members(traits: Traits) -> Iterator[tuple[str, Callable[[int], MemberSettings]]]:
    """Names, and what makes a member with hidden layers of a size."""
    yield from _linear_models(traits)
    dbof, netvlad = ("dbof", partial(_dbof, traits)), ("netvlad", partial(_netvlad, traits))
    if traits.frames == 1:
        yield "deep", partial(_frames, traits, "mean", 1)
        yield dbof
        yield "deeper", partial(_frames, traits, "mean", 2)
        yield "experts", lambda _: _experts(traits)
        return
    if traits.intervals and traits.videos_with_intervals >= _FEWEST_IN_BATCH:
        for pooling in ("log-sum-exp", "max", "attention"):
            yield f"seconds-{pooling}", partial(_seconds, traits, pooling)
    attention, noisy_or, smooth = (
        (f"frames-{it}", partial(_frames, traits, it, 1)) for it in ("attention", "noisy-or", "log-sum-exp")
    )
    # A training with noisy-or has to see all frames.
    noisy = [] if traits.are_long else [noisy_or]
    deep = "frames-deep", partial(_frames, traits, "attention", 2)
    cheap_first = [dbof, netvlad, attention, *noisy, smooth, deep]
    usual = [attention, *noisy, dbof, smooth, deep, netvlad]
    yield from cheap_first if traits.decides_dearly else usual
    yield "attention", partial(_attention, traits)
    yield "frames-max", partial(_frames, traits, "max", 1)
    yield "frames-mean", partial(_frames, traits, "mean", 1)


def is_solved(member: MemberSettings) -> bool:
    """Whether it is solved exactly: it comes out the same from any initial weights, and has no settings to vary."""
    return member["training"].get("solver") == "lbfgs"


def original(name: str) -> str:
    """The member of the portfolio that a variation comes from: `dbof` of `dbof-3-half-rate`."""
    return re.sub(r"-[0-9].*", "", name)


def variations(name: str, member: MemberSettings, number: int) -> dict[str, MemberSettings]:
    """The rivals of a round, by name: a member as it is, and with half and with twice of one setting.

    Rounds take turns: width, learning rate, dropout. All start from other initial weights.

    Arguments:
        name, member: what is varied.
        number: of the round, from 2 on; names have it.
    """
    what, varied = ((("width", _wider), ("rate", _faster), ("dropout", _dropping)))[number % 3]
    name = f"{original(name)}-{number}"
    rivals = {name: member}
    for word, factor in (("half", 0.5), ("double", 2.0)):
        if (rival := varied(member, factor)) != member:
            rivals[f"{name}-{word}-{what}"] = rival
    return rivals


def _linear_models(traits: Traits) -> Iterator[tuple[str, Callable[[int], MemberSettings]]]:
    """Scikit-learn's C, how weak the penalty is, is a part of their names."""
    several = traits.frames > 1
    if traits.products > _MOST_TO_SOLVE:
        yield "mean", partial(_linear, traits, 0.1, False)
        if several:
            yield "mean-and-max", partial(_linear, traits, 0.3, True)
        return
    cheap = traits.products <= _FEW_TO_SOLVE
    for c in (10, 250, 2, 50, 1250) if cheap else (10, 250):
        yield f"mean-c{c}", partial(_solved, traits, c, False)
    if several:
        for c in (10, 250) if cheap else (10,):
            yield f"mean-and-max-c{c}", partial(_solved, traits, c, True)


def _solved(traits: Traits, c: float, largest: bool, _: int) -> MemberSettings:
    # So the penalty is the same prior for any number of videos.
    training = {"solver": "lbfgs", "steps": 60, "batch_size": traits.batch_size}
    head = {"type": "logistic", "l2": 1 / (c * traits.videos)}
    return {"family": {"type": "mean", "max": largest}, "head": head, "training": training}


def _linear(traits: Traits, learning_rate: float, largest: bool, _: int) -> MemberSettings:
    # scikit-learn's C of 50.
    head = {"type": "logistic", "l2": 0.02 / traits.videos, "dropout": 0.3}
    return {"family": {"type": "mean", "max": largest}, "head": head, "training": _training(traits, learning_rate)}


def _experts(traits: Traits) -> MemberSettings:
    head = {"type": "moe", "experts": 2, "dropout": 0.2}
    return {"family": {"type": "mean"}, "head": head, "training": _training(traits, 0.02)}


def _frames(traits: Traits, pooling: str, layers: int, hidden: int) -> MemberSettings:
    family = {"type": "frame-classifier", "pooling": pooling, "dropout": 0.5}
    encoder = {"hidden": [hidden] * layers, "dropout": 0.5 if traits.videos > 1_000 else 0.3}
    return {"encoder": encoder, "family": family, "training": _training(traits, 0.003)}


def _seconds(traits: Traits, pooling: str, hidden: int) -> MemberSettings:
    """A frame classifier that learns what holds in each second, and knows the whole video."""
    member = _frames(traits, pooling, 1, hidden)
    # A video has several seconds to learn, so half of the passes are enough.
    steps = round(traits.steps / 2 * traits.batch_size / traits.videos_with_intervals)
    training = member["training"] | {
        "steps": steps,
        "batch_size": traits.videos_with_intervals,
        "sampling": "none",
        "validate_every": max(1, steps // 10),
        "segments": {"table": traits.intervals, "seconds": traits.seconds, "context": "video"},
    }
    return member | {"encoder": member["encoder"] | {"cells": hidden // 2}, "training": training}


def _attention(traits: Traits, hidden: int) -> MemberSettings:
    family = {"type": "attention", "heads": 8, "values": hidden, "hidden": hidden, "dropout": 0.5}
    encoder = {"hidden": [hidden], "dropout": 0.5}
    head = {"type": "logistic", "dropout": 0.5}
    return {"encoder": encoder, "family": family, "head": head, "training": _training(traits, 0.002)}


def _netvlad(traits: Traits, hidden: int) -> MemberSettings:
    family = {"type": "netvlad", "clusters": 8, "hidden": hidden, "relu": True, "gating": False, "dropout": 0.5}
    # Without the encoder a cluster has as many sums as a frame has bytes.
    encoder = {"hidden": hidden // 2, "dropout": 0.3}
    head = {"type": "logistic", "dropout": 0.6}
    return {"encoder": encoder, "family": family, "head": head, "training": _training(traits, 0.004)}


def _dbof(traits: Traits, hidden: int) -> MemberSettings:
    family = {
        "type": "dbof",
        "pooling": "max",
        "clusters": hidden,
        "hidden": hidden,
        "relu": True,
        "gating": False,
        "dropout": 0.3,
    }
    return {"family": family, "head": {"type": "logistic", "dropout": 0.5}, "training": _training(traits, 0.004)}


def _training(traits: Traits, learning_rate: float) -> MemberSettings:
    return {
        "steps": traits.steps,
        "batch_size": traits.batch_size,
        **({"sampling": "replacement", "sample_frames": 60} if traits.are_long else {"sampling": "none"}),
        "learning_rate": learning_rate,
        "schedule": "one-cycle",
        "batch_norm_momentum": 0.1,
        "validate_every": traits.steps // 10,
        "on_nan": "halve",
        "shuffle_buffer": 4096,
    }


def _wider(member: MemberSettings, factor: float) -> MemberSettings:
    """Its hidden layers so many times as wide."""

    def scaled(value: Any) -> Any:
        return [scaled(size) for size in value] if isinstance(value, list) else max(8, round(value * factor))

    def wider(part: MemberSettings, *sizes: str) -> MemberSettings:
        return part | {key: scaled(part[key]) for key in sizes if key in part}

    changed = {"encoder": wider(member["encoder"], "hidden", "cells")} if "encoder" in member else {}
    if member["family"]["type"] == "dbof":
        changed["family"] = wider(member["family"], "hidden", "clusters")
    return member | changed


def _faster(member: MemberSettings, factor: float) -> MemberSettings:
    training = member["training"]
    return member | {"training": training | {"learning_rate": training["learning_rate"] * factor}}


def _dropping(member: MemberSettings, factor: float) -> MemberSettings:
    """Half of its dropout, or halfway to all."""

    def changed(part: MemberSettings) -> MemberSettings:
        dropout = part.get("dropout", 0.0)
        return part | {"dropout": round(dropout / 2 if factor < 1 else (1 + dropout) / 2, 4)} if dropout else part

    return {key: changed(part) if key in ("encoder", "family", "head") else part for key, part in member.items()}


def _rising(value: int, levels: dict[int, int]) -> int:
    """The last level that `value` has reached."""
    return [level for least, level in levels.items() if value >= least][-1]
