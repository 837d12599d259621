"""The search against exhaustive search, and what must hold of it for any problem."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfit.errors import BudgetError
from vidfit.search.blend import HeldOut
from vidfit.search.budget import Candidate, best_within, explore

MEMBERS, WIDTHS = 4, 3


def problem(seed: int, members: int = MEMBERS, widths: int = WIDTHS) -> tuple[list[Candidate], HeldOut]:
    """Members of different skill and size; fewer bytes, more noise."""
    random = np.random.default_rng(seed)
    labels = random.random((40, 30)) < 0.06
    labels[0, 0] = True
    candidates, floats, predictions, member_of = [], [], [], []
    for member in range(members):
        skill, size = random.uniform(1, 3), int(random.integers(1_000, 100_000))
        logits = skill * labels + random.normal(size=labels.shape) - 3
        floats.append(1 / (1 + np.exp(-logits)))
        for width in range(widths):
            noise = random.normal(size=labels.shape) * 0.8 / (1 + width) ** 2
            predictions.append(1 / (1 + np.exp(-(logits + noise))))
            member_of.append(member)
            candidates.append(
                Candidate(f"member-{member}", size * (2 + 3 * width) // 8, ms=float(random.uniform(1, 5)))
            )
    return candidates, HeldOut(floats, predictions, member_of, labels)


def everything(candidates: list[Candidate], held_out: HeldOut) -> list[tuple[int, float]]:
    """Int8Weight and GAP of every ensemble there is."""
    places = [[*range(m * WIDTHS, (m + 1) * WIDTHS), None] for m in range(MEMBERS)]
    found = []
    for choice in product(*places):
        chosen = tuple(place for place in choice if place is not None)
        if chosen:
            found.append((sum(candidates[place].bytes for place in chosen), held_out.expected(chosen)[1]))
    return found


@given(seed=st.integers(0, 2**32 - 1), fractions=st.lists(st.floats(0.05, 1), min_size=4, max_size=4))
@settings(max_examples=50)
def test_the_search_finds_the_optimum_within_the_budget(seed: int, fractions: list[float]):
    candidates, held_out = problem(seed)
    ensembles, frontier = everything(candidates, held_out), explore(candidates, held_out)
    smallest, largest = min(size for size, _ in ensembles), max(size for size, _ in ensembles)
    for fraction in fractions:
        budget = int(smallest + fraction * (largest - smallest))
        best = best_within(frontier, budget)
        assert best.bytes <= budget
        assert best.bytes == sum(candidates[place].bytes for place in best.candidates)
        assert best.gap >= max(gap for size, gap in ensembles if size <= budget) - 0.0002


@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.05, 1))
@settings(max_examples=50)
def test_given_members_are_packed_at_the_best_widths_that_fit(seed: int, fraction: float):
    candidates, held_out = problem(seed)
    weights = {"member-0": 0.5, "member-2": 0.2, "member-3": 0.3}
    places = [range(member * WIDTHS, (member + 1) * WIDTHS) for member in (0, 2, 3)]
    every = [
        (sum(candidates[place].bytes for place in chosen), held_out.expected(chosen, tuple(weights.values()))[1])
        for chosen in product(*places)
    ]
    smallest, largest = min(size for size, _ in every), max(size for size, _ in every)
    budget = int(smallest + fraction * (largest - smallest))
    best = best_within(explore(candidates, held_out, weights=weights), budget)
    assert [candidates[place].member for place in best.candidates] == list(weights)
    assert best.weights == tuple(weights.values())
    assert best.bytes <= budget
    assert best.gap >= max(gap for size, gap in every if size <= budget) - 0.0002


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_more_bytes_never_give_a_lower_score(seed: int):
    candidates, held_out = problem(seed, members=5)
    frontier = explore(candidates, held_out, common_bytes=100)
    assert [ensemble.bytes for ensemble in frontier] == sorted({ensemble.bytes for ensemble in frontier})
    assert [ensemble.gap for ensemble in frontier] == sorted({ensemble.gap for ensemble in frontier})
    assert frontier[0].bytes == 100 + min(candidate.bytes for candidate in candidates)
    for ensemble in frontier:
        assert len({candidates[place].member for place in ensemble.candidates}) == len(ensemble.candidates)
        assert sum(ensemble.weights) == pytest.approx(1)
        assert min(ensemble.weights) > 0
        assert ensemble.gap == held_out.expected(ensemble.candidates)[1]


def test_milliseconds_are_a_limit_too():
    candidates, held_out = problem(3)
    limit = 5.0
    limited, free = explore(candidates, held_out, max_ms=limit), explore(candidates, held_out)
    assert all(ensemble.ms <= limit for ensemble in limited)
    assert limited[-1].gap < free[-1].gap


def test_what_does_not_fit_says_what_would():
    candidates, held_out = problem(4)
    frontier = explore(candidates, held_out)
    smallest = min(candidate.bytes for candidate in candidates)
    with pytest.raises(BudgetError, match=f"10 bytes .* smallest possible file takes {smallest:,}"):
        best_within(frontier, 10)


def test_members_all_too_slow_are_an_error_naming_the_fastest():
    candidates, held_out = problem(5)
    fastest = min(candidates, key=lambda candidate: candidate.ms)
    with pytest.raises(BudgetError, match=rf"the fastest, {fastest.member}, takes {fastest.ms:.3f}"):
        explore(candidates, held_out, max_ms=0.01)
