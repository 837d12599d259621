"""The members that `fit` tries, in order: what gave most for its time on many data sets comes first.

A linear model leads, so that no result is below it. Then families that err differently: their average is packed.
Then three of them again, wider, narrower and as they were. `benchmarks/portfolio.py` has the table behind the order.
Sizes and lengths follow from the data:

- few videos bear small members, strong dropout and many passes; many videos the opposite;
- no member alone takes more than half of the budget in 8 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Traits:
    """What the members' sizes follow from.

    Attributes:
        videos: to train on.
        classes: C.
        size: D, bytes or floats of a frame.
        frames: of a typical video.
        budget: bytes of all members.
    """

    videos: int
    classes: int
    size: int
    frames: int
    budget: int

    @property
    def batch_size(self) -> int:
        return _rising(self.videos, {0: 64, 1_000: 128, 10_000: 256, 100_000: 512, 1_000_000: 1024})

    @property
    def passes(self) -> float:
        """How often a training sees each video."""
        return min(40.0, max(3.0, 40 * (1_000 / self.videos) ** (1 / 3)))

    @property
    def hidden(self) -> int:
        """Size of a hidden layer."""
        wanted = _rising(self.videos, {0: 256, 1_000: 512, 10_000: 1024, 200_000: 2048})
        # Weights of an encoder, a decision and attention, a byte each.
        while wanted > 16 and wanted * (self.size + 2 * self.classes + wanted) > self.budget / 2:
            wanted //= 2
        return wanted

    @property
    def steps(self) -> int:
        """Batches of these passes, and no fewer than weights need to get anywhere."""
        return max(240, round(self.passes * self.videos / self.batch_size))


def portfolio(traits: Traits) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings of members, as a recipe has them; without end.

    After the first ones three of them come again and again: one twice as wide, one half as wide, one as it was. They
    start from other weights each time.
    """
    yield from _first(traits)
    rounds = 2
    while True:
        for scale, (name, member) in zip((2, 0.5, 1), _again(traits, rounds), strict=False):
            yield name, _scaled(member, scale)
        rounds += 1


def _first(traits: Traits) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "mean", _linear(traits)
    if traits.frames == 1:
        yield "deep", _frames(traits, "mean")
        yield "dbof", _dbof(traits)
        yield "deeper", _frames(traits, "mean", layers=2)
        yield "experts", _experts(traits)
        return
    yield "frames-attention", _frames(traits, "attention")
    yield "dbof", _dbof(traits)
    yield "frames-log-sum-exp", _frames(traits, "log-sum-exp")
    yield "netvlad", _netvlad(traits)
    yield "frames-deep", _frames(traits, "attention", layers=2)
    yield "attention", _attention(traits)
    yield "frames-max", _frames(traits, "max")
    yield "frames-mean", _frames(traits, "mean")


def _again(traits: Traits, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if traits.frames == 1:
        yield f"deep-{number}", _frames(traits, "mean")
        yield f"dbof-{number}", _dbof(traits)
        yield f"deeper-{number}", _frames(traits, "mean", layers=2)
        return
    yield f"frames-attention-{number}", _frames(traits, "attention")
    yield f"netvlad-{number}", _netvlad(traits)
    yield f"frames-log-sum-exp-{number}", _frames(traits, "log-sum-exp")


def _linear(traits: Traits) -> dict[str, Any]:
    return {"family": {"type": "mean"}, "head": {"type": "logistic"}, "training": _training(traits, 0.03)}


def _experts(traits: Traits) -> dict[str, Any]:
    head = {"type": "moe", "experts": 2, "dropout": 0.2}
    return {"family": {"type": "mean"}, "head": head, "training": _training(traits, 0.02)}


def _frames(traits: Traits, pooling: str, layers: int = 1) -> dict[str, Any]:
    family = {"type": "frame-classifier", "pooling": pooling, "dropout": 0.5}
    encoder = {"hidden": [traits.hidden] * layers, "dropout": 0.5 if traits.videos > 1_000 else 0.3}
    return {"encoder": encoder, "family": family, "training": _training(traits, 0.003)}


def _attention(traits: Traits) -> dict[str, Any]:
    size = max(traits.hidden // 8, 1) * 8
    family = {"type": "attention", "heads": 8, "values": size, "hidden": size, "dropout": 0.5}
    encoder = {"hidden": [size], "dropout": 0.5}
    head = {"type": "logistic", "dropout": 0.5}
    return {"encoder": encoder, "family": family, "head": head, "training": _training(traits, 0.002)}


def _netvlad(traits: Traits) -> dict[str, Any]:
    family = {"type": "netvlad", "clusters": 8, "hidden": traits.hidden, "relu": True, "gating": False, "dropout": 0.5}
    # Without the encoder a cluster has as many sums as a frame has bytes.
    encoder = {"hidden": max(traits.hidden // 2, 8), "dropout": 0.3}
    head = {"type": "logistic", "dropout": 0.6}
    return {"encoder": encoder, "family": family, "head": head, "training": _training(traits, 0.004)}


def _dbof(traits: Traits) -> dict[str, Any]:
    size = traits.hidden
    family = {
        "type": "dbof",
        "pooling": "max",
        "clusters": size,
        "hidden": size,
        "relu": True,
        "gating": False,
        "dropout": 0.3,
    }
    return {"family": family, "head": {"type": "logistic", "dropout": 0.5}, "training": _training(traits, 0.004)}


def _training(traits: Traits, learning_rate: float) -> dict[str, Any]:
    long = traits.frames > 60
    return {
        "steps": traits.steps,
        "batch_size": traits.batch_size,
        **({"sampling": "replacement", "sample_frames": 60} if long else {"sampling": "none"}),
        "learning_rate": learning_rate,
        "schedule": "one-cycle",
        "batch_norm_momentum": 0.1,
        "validate_every": traits.steps // 10,
        "shuffle_buffer": 4096,
    }


def _scaled(member: dict[str, Any], scale: float) -> dict[str, Any]:
    """The same with its hidden layers so many times as wide."""

    def scaled(value: Any) -> Any:
        return [scaled(size) for size in value] if isinstance(value, list) else max(8, round(value * scale))

    encoder = member.get("encoder")
    family = {
        key: scaled(value) if key in ("hidden", "clusters") and member["family"]["type"] == "dbof" else value
        for key, value in member["family"].items()
    }
    return (
        member | {"family": family} | ({"encoder": encoder | {"hidden": scaled(encoder["hidden"])}} if encoder else {})
    )


def _rising(value: int, levels: dict[int, int]) -> int:
    """The last level that `value` has reached."""
    return [level for least, level in levels.items() if value >= least][-1]
