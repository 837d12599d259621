"""The best ensemble for any number of bytes: which members, at which widths, with which weights.

The candidates are members at a few choices of widths each (`quantization/bit_allocation.py`). An ensemble takes at
most one candidate of each member; its score is the GAP that its blend is expected to reach (`blend.py`). That is not
additive, so every ensemble that is looked at is really blended: a beam search, which keeps the best few ensembles in
each band of sizes and tries all their neighbours (a member more, a member less, a member at other widths) until no
band gets any better.

One exploration answers for every budget, as the best ensemble found that fits. More bytes can therefore never give a
lower score. What it trades away is certainty: `tests/export/test_budget.py` compares it with exhaustive search.

Where members and their weights are given, only widths are left to choose: the same search, which neither takes nor
leaves a member.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vidfit.errors import BudgetError
from vidfit.search.blend import HeldOut
from vidfit.sizes import format_size

_BANDS = 32
_BEAM = 3


@dataclass(frozen=True)
class Candidate:
    """A member at one choice of widths."""

    member: str
    bytes: int
    """That it adds to a file."""
    ms: float
    """That it adds to the time for a video."""


@dataclass(frozen=True)
class Ensemble:
    """Candidates in one file.

    Attributes:
        candidates: their places among all, ascending.
        weights: of each in the average; they sum to 1.
        bytes: of the whole file.
        ms: milliseconds a video.
        gap: expected, on the videos that select.
    """

    candidates: tuple[int, ...]
    weights: tuple[float, ...]
    bytes: int
    ms: float
    gap: float


def explore(
    candidates: Sequence[Candidate],
    held_out: HeldOut,
    common_bytes: int = 0,
    max_ms: float | None = None,
    show: Callable[[int], None] = lambda _: None,
    shares: Mapping[str, float] | None = None,
) -> list[Ensemble]:
    """The frontier: ensembles by rising bytes and rising GAP, none better in both than another.

    Arguments:
        candidates: what there is to choose from, at least one; `held_out` has their predictions in this order.
        held_out: of the videos to select by.
        common_bytes: of a file without members.
        max_ms: ensembles that take more for a video are left out.
        show: called with the number of ensembles looked at.
        shares: member -> weight, their sum 1, where these members and no others are to be in the ensemble; without
            `max_ms`, for widths hardly change what a member takes.

    Raises:
        BudgetError: every candidate alone takes longer than `max_ms`.
    """
    found: dict[tuple[int, ...], Ensemble] = {}
    seen: set[tuple[int, ...]] = set()
    expanded: set[tuple[int, ...]] = set()

    def look_at(chosen: tuple[int, ...]) -> None:
        if chosen in seen:
            return
        seen.add(chosen)
        ms = sum(candidates[place].ms for place in chosen)
        if not chosen or (max_ms is not None and ms > max_ms):
            return
        given = [shares[candidates[place].member] for place in chosen] if shares else ()
        weights, gap = held_out.expected(chosen, given)
        if weights.min() == 0:  # bytes for nothing
            look_at(tuple(place for place, weight in zip(chosen, weights, strict=True) if weight > 0))
            return
        size = common_bytes + sum(candidates[place].bytes for place in chosen)
        found[chosen] = Ensemble(chosen, tuple(weights.tolist()), size, ms, gap)
        show(len(found))

    if shares:
        look_at(_smallest(candidates, shares))
    else:
        for place in range(len(candidates)):
            look_at((place,))
    if not found:
        fastest = min(candidates, key=lambda candidate: candidate.ms)
        raise BudgetError(
            f"no member takes at most {max_ms} ms a video: the fastest, {fastest.member}, takes {fastest.ms:.3f}; "
            "allow more or train a smaller one"
        )
    while waiting := [ensemble for ensemble in _beam(list(found.values())) if ensemble.candidates not in expanded]:
        for ensemble in waiting:
            expanded.add(ensemble.candidates)
            for neighbour in _neighbours(ensemble.candidates, candidates):
                if not shares or len(neighbour) == len(shares):
                    look_at(neighbour)
    return _frontier(found.values())


def best_within(frontier: Sequence[Ensemble], budget: int) -> Ensemble:
    """The best ensemble of a frontier (not an empty one) that takes at most `budget` bytes.

    Raises:
        BudgetError: there is none; the message says what the smallest would take.
    """
    fitting = [ensemble for ensemble in frontier if ensemble.bytes <= budget]
    if not fitting:
        raise BudgetError(
            f"no ensemble fits {budget:,} bytes ({format_size(budget)}): the smallest possible file takes "
            f"{frontier[0].bytes:,}; raise the budget or train a smaller member"
        )
    return fitting[-1]


def _smallest(candidates: Sequence[Candidate], members: Iterable[str]) -> tuple[int, ...]:
    """The ensemble of these members that takes the fewest bytes."""
    places = range(len(candidates))
    own = ([place for place in places if candidates[place].member == member] for member in members)
    return tuple(sorted(min(its, key=lambda place: candidates[place].bytes) for its in own))


def _neighbours(chosen: tuple[int, ...], candidates: Sequence[Candidate]) -> Iterator[tuple[int, ...]]:
    """One member less, more, or at other widths."""
    for place in chosen:
        yield tuple(other for other in chosen if other != place)
    of_member = {candidates[place].member: place for place in chosen}
    for place, candidate in enumerate(candidates):
        replaced = of_member.get(candidate.member)
        if replaced != place:
            yield tuple(sorted([place, *(other for other in chosen if other != replaced)]))


def _beam(found: Sequence[Ensemble]) -> list[Ensemble]:
    """The best few in each band of sizes; bands are equally wide in the logarithm of bytes."""
    sizes = np.log([ensemble.bytes for ensemble in found])
    low, high = sizes.min(), sizes.max()
    bands = ((sizes - low) / max(high - low, 1e-9) * (_BANDS - 1e-6)).astype(int)
    kept: dict[int, int] = {}
    beam = []
    for place in sorted(range(len(found)), key=lambda place: (-found[place].gap, found[place].bytes)):
        band = int(bands[place])
        if kept.get(band, 0) < _BEAM:
            kept[band] = kept.get(band, 0) + 1
            beam.append(found[place])
    return beam


def _frontier(ensembles: Iterable[Ensemble]) -> list[Ensemble]:
    frontier: list[Ensemble] = []
    for ensemble in sorted(ensembles, key=lambda ensemble: (ensemble.bytes, -ensemble.gap)):
        if not frontier or ensemble.gap > frontier[-1].gap:
            frontier.append(ensemble)
    return frontier
