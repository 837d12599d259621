"""Bit allocation against every combination that there is."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidfit.quantization.bit_allocation import Allocation, allocate, lower_hull, spread
from vidfit.quantization.sensitivity import Cost
from vidfit.quantization.uniform import QuantScheme

SCHEMES = [QuantScheme(bits=bits) for bits in (2, 3, 4, 6, 8)]


@st.composite
def costs_of_tensors(draw: st.DrawFn) -> list[list[Cost]]:
    """One to four tensors; bytes rise with the bits, divergence falls as a rule but need not."""
    tensors = []
    for tensor in range(draw(st.integers(1, 4))):
        size = draw(st.integers(100, 10_000))
        numbers = draw(st.lists(st.floats(0, 1), min_size=len(SCHEMES), max_size=len(SCHEMES)))
        tensors.append(
            [
                Cost(str(tensor), scheme, size * scheme.bits, number / 4**scheme.bits, 0.0)
                for scheme, number in zip(SCHEMES, numbers, strict=True)
            ]
        )
    return tensors


@given(costs_of_tensors(), st.floats(-12, 0))
def test_for_any_multiplier_the_best_combination_is_on_the_frontier(tensors: list[list[Cost]], exponent: float):
    multiplier = 10**exponent / 1000
    best = min(
        sum(cost.divergence + multiplier * cost.bytes for cost in combination) for combination in product(*tensors)
    )
    found = min(
        allocation.divergence + multiplier * allocation.bytes
        for allocation in allocate(cost for own in tensors for cost in own)
    )
    assert found == pytest.approx(best, rel=1e-9, abs=1e-15)


@given(costs_of_tensors())
def test_the_frontier_goes_from_the_fewest_bytes_to_the_least_divergence(tensors: list[list[Cost]]):
    allocations = allocate(cost for own in tensors for cost in own)
    assert allocations[0].bytes == sum(min(cost.bytes for cost in own) for own in tensors)
    assert allocations[-1].divergence == pytest.approx(sum(min(cost.divergence for cost in own) for own in tensors))
    sizes = [allocation.bytes for allocation in allocations]
    assert sizes == sorted(set(sizes))
    for allocation in allocations:
        assert set(allocation.schemes) == {own[0].tensor for own in tensors}


def test_a_cost_above_the_line_between_neighbours_is_not_on_the_hull():
    costs = [
        Cost("w", scheme, size, away, 0.0)
        for scheme, size, away in zip(SCHEMES, (2, 3, 4), (1.0, 0.9, 0.0), strict=False)
    ]
    assert [cost.bytes for cost in lower_hull(costs)] == [2, 4]


def test_a_member_without_big_tensors_has_one_allocation():
    assert allocate([]) == [Allocation({}, 0, 0)]
    assert spread(allocate([]), 8) == [Allocation({}, 0, 0)]


def test_a_spread_is_even_in_the_logarithm_of_bytes():
    allocations = [Allocation({}, size, 0.0) for size in range(100, 10_001, 100)]
    assert [allocation.bytes for allocation in spread(allocations, 3)] == [100, 1000, 10_000]
