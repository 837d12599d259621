"""Which bit width for which tensor of a member, for any number of bytes: bits go where they save most.

First, each tensor's costs are cut down to their lower convex hull over bytes. A Lagrangian multiplier (divergence per
byte) then picks one point of every hull. As the multiplier falls, tensors step to more bits, the steepest step first.
These steps are the member's whole frontier, as long as costs of tensors add up.

Source: Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vidfit.quantization.sensitivity import Cost
from vidfit.quantization.uniform import QuantScheme


@dataclass(frozen=True)
class Allocation:
    """A quantisation scheme for every big tensor of a member.

    Attributes:
        schemes: by tensor name.
        bytes: bytes of these tensors.
        divergence: sum of the tensors' own divergences, nats per video.
    """

    schemes: dict[str, QuantScheme]
    bytes: int
    divergence: float


def allocate(costs: Iterable[Cost]) -> list[Allocation]:
    """The frontier of a member, from the fewest bytes to the least divergence.

    Arguments:
        costs: at least one per tensor.
    """
    by_tensor: dict[str, list[Cost]] = {}
    for cost in costs:
        by_tensor.setdefault(cost.tensor, []).append(cost)
    hulls = {name: lower_hull(own) for name, own in by_tensor.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    steps = [step for hull in hulls.values() for step in pairwise(hull)]
    steps.sort(key=lambda step: _slope(*step))
    allocations = [_allocation(chosen)]
    for _, better in steps:
        chosen = {**chosen, better.tensor: better}
        allocations.append(_allocation(chosen))
    return allocations


def lower_hull(costs: Sequence[Cost]) -> list[Cost]:
    """The costs of one tensor on its lower convex hull, from the fewest bytes to the least divergence."""
    hull: list[Cost] = []
    for cost in sorted(costs, key=lambda cost: (cost.bytes, cost.divergence)):
        if hull and cost.divergence >= hull[-1].divergence:
            continue
        while len(hull) > 1 and _slope(hull[-1], cost) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(cost)
    return hull


def spread(allocations: Sequence[Allocation], count: int) -> list[Allocation]:
    """At most `count` allocations of a frontier, with both ends, evenly in the logarithm of bytes."""
    if len(allocations) <= count:
        return list(allocations)
    sizes = np.log([allocation.bytes for allocation in allocations])
    wanted = np.linspace(sizes[0], sizes[-1], count)
    return [allocations[place] for place in sorted({int(np.abs(sizes - size).argmin()) for size in wanted})]


def _slope(fewer: Cost, more: Cost) -> float:
    return (more.divergence - fewer.divergence) / (more.bytes - fewer.bytes)


def _allocation(chosen: dict[str, Cost]) -> Allocation:
    return Allocation(
        {name: cost.scheme for name, cost in chosen.items()},
        sum(cost.bytes for cost in chosen.values()),
        sum(cost.divergence for cost in chosen.values()),
    )
