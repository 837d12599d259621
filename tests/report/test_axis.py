"""Where values stand on an axis, and which are written beside it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidfit.report.axis import Axis, around


def test_places():
    assert Axis("", 2, 6).place(3) == pytest.approx(0.25)
    assert Axis("", 1, 10_000, log=True).place(100) == pytest.approx(0.5)
    axis = Axis("", 30, 7_000, log=True)
    assert axis.place(800) == pytest.approx(math.log(800 / 30) / math.log(7_000 / 30))


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("", 0.43, 0.58), [0.45, 0.5, 0.55]),
        (Axis("", 0, 2300), [0, 500, 1000, 1500, 2000]),
        (Axis("", 150e3, 4e6, log=True), [200e3, 500e3, 1e6, 2e6]),
        (Axis("", 1e-4, 1, log=True), [1e-4, 1e-3, 1e-2, 0.1, 1]),
        (Axis("", 6.5, 9.5, log=True), [7, 8, 9]),
    ],
)
def test_ticks(axis: Axis, ticks: list[float]):
    assert axis.ticks() == pytest.approx(ticks)


@given(
    st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=5),
    st.booleans(),
)
def test_an_axis_around_values_holds_them_and_has_ticks(values: list[float], log: bool):
    axis = around("", values, log)
    assert all(-1e-6 <= axis.place(value) <= 1 + 1e-6 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 6
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in ticks)
