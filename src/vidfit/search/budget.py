"""The best ensemble for any number of bytes: which members, at which bit widths, with which weights.

A candidate is a member at one choice of bit widths (`quantization/bit_allocation.py`). An ensemble has at most one
candidate per member. Its score is the GAP that its blend is expected to reach (`blend.py`).

Scores do not add up, so every ensemble that is tried is really blended. The search is a beam search. It keeps the best
few ensembles in each band of sizes and tries their neighbours: one member more, one less, or one at other bit widths.
It stops when no band improves.

One search answers for every budget, as the best ensemble found that fits. So more bytes never give a lower score. There
is no proof that it finds the optimum; `tests/search/test_budget.py` compares it with exhaustive search.

If members and weights are given, only bit widths are searched. The search then neither adds nor removes members.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vidfit.errors import BudgetError
from vidfit.search.blend import HeldOut
from vidfit.sizes import format_size

_BANDS = 32
_BEAM = 3


@dataclass(frozen=True)
class Candidate:
    """A member at one choice of bit widths."""

    member: str
    bytes: int
    """Bytes that it adds to a file."""
    ms: float
    """Milliseconds that it adds per video."""


@dataclass(frozen=True)
class Ensemble:
    """Candidates in one file.

    Attributes:
        candidates: indices of its candidates, ascending.
        weights: weight of each in the average; they sum to 1.
        bytes: bytes of the whole file.
        ms: milliseconds per video.
        gap: expected GAP on the videos that select.
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
    on_progress: Callable[[int], None] = lambda _: None,
    weights: Mapping[str, float] | None = None,
) -> list[Ensemble]:
    """The frontier: ensembles by rising bytes and rising GAP.

    Arguments:
        candidates: what to choose from, at least one. `held_out` has their predictions in this order.
        held_out: the videos to select by.
        common_bytes: bytes of a file without members.
        max_ms: ensembles that take more milliseconds per video are left out.
        on_progress: called with the number of ensembles tried.
        weights: member -> weight, with sum 1, to put exactly these members into the ensemble. Not with `max_ms`: bit
            widths hardly change a member's time.

    Raises:
        BudgetError: every candidate alone takes longer than `max_ms`.
    """
    tried = _Tried(candidates, held_out, common_bytes, max_ms, on_progress, weights)
    if weights:
        tried.add(_smallest(candidates, weights))
    else:
        for place in range(len(candidates)):
            tried.add((place,))
    if not tried.found:
        fastest = min(candidates, key=lambda candidate: candidate.ms)
        raise BudgetError(
            f"no member takes at most {max_ms} ms per video: the fastest, {fastest.member}, takes {fastest.ms:.3f}; "
            "allow more or train a smaller one"
        )
    expanded: set[tuple[int, ...]] = set()
    while waiting := [it for it in _beam(list(tried.found.values())) if it.candidates not in expanded]:
        for ensemble in waiting:
            expanded.add(ensemble.candidates)
            for neighbour in _neighbours(ensemble.candidates, candidates):
                if not weights or len(neighbour) == len(weights):
                    tried.add(neighbour)
    return _frontier(tried.found.values())


@dataclass
class _Tried:
    """The ensembles tried so far. For the fields see `explore`."""

    candidates: Sequence[Candidate]
    held_out: HeldOut
    common_bytes: int
    max_ms: float | None
    on_progress: Callable[[int], None]
    weights: Mapping[str, float] | None
    seen: set[tuple[int, ...]] = field(default_factory=set)
    found: dict[tuple[int, ...], Ensemble] = field(default_factory=dict)

    def add(self, chosen: tuple[int, ...]) -> None:
        """Score an ensemble, unless it was tried before or is too slow."""
        if not chosen or chosen in self.seen:
            return
        self.seen.add(chosen)
        members = [self.candidates[place] for place in chosen]
        ms = sum(member.ms for member in members)
        if self.max_ms is not None and ms > self.max_ms:
            return
        given = [self.weights[member.member] for member in members] if self.weights else ()
        weights, gap = self.held_out.expected(chosen, given)
        if weights.min() == 0:  # a member with weight 0 only costs bytes
            self.add(tuple(place for place, weight in zip(chosen, weights, strict=True) if weight > 0))
            return
        size = self.common_bytes + sum(member.bytes for member in members)
        self.found[chosen] = Ensemble(chosen, tuple(weights.tolist()), size, ms, gap)
        self.on_progress(len(self.found))


def best_within(frontier: Sequence[Ensemble], budget: int) -> Ensemble:
    """The best ensemble of a non-empty frontier that takes at most `budget` bytes.

    Raises:
        BudgetError: there is none. The message has the size of the smallest.
    """
    fitting = [ensemble for ensemble in frontier if ensemble.bytes <= budget]
    if not fitting:
        raise BudgetError(
            f"no ensemble fits {budget:,} bytes ({format_size(budget)}): the smallest possible file takes "
            f"{frontier[0].bytes:,}; raise the budget or train a smaller member"
        )
    return fitting[-1]


def _smallest(candidates: Sequence[Candidate], members: Iterable[str]) -> tuple[int, ...]:
    """The ensemble of these members with the fewest bytes."""
    places = range(len(candidates))
    own = ([place for place in places if candidates[place].member == member] for member in members)
    return tuple(sorted(min(its, key=lambda place: candidates[place].bytes) for its in own))


def _neighbours(chosen: tuple[int, ...], candidates: Sequence[Candidate]) -> Iterator[tuple[int, ...]]:
    """One member less, one more, or one at other bit widths."""
    for place in chosen:
        yield tuple(other for other in chosen if other != place)
    of_member = {candidates[place].member: place for place in chosen}
    for place, candidate in enumerate(candidates):
        replaced = of_member.get(candidate.member)
        if replaced != place:
            yield tuple(sorted([place, *(other for other in chosen if other != replaced)]))


def _beam(found: Sequence[Ensemble]) -> list[Ensemble]:
    """The best few of each band of sizes. Bands are equally wide in the logarithm of bytes."""
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
