"""Times as people write them, and what is left of one."""

import pytest

from vidfit.errors import VidfitError
from vidfit.fitting.clock import Clock, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("1.5h", 5400), ("2d", 172_800), (" 10 m ", 600)]
)
def test_a_time_is_read(text: str, seconds: float):
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "h", "0m", "0.0h", "-5m", "1h30m", "1month", "10 monkeys", "1,5h", "1w", "soon", "9" * 400 + "d"]
)
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(VidfitError, match="write a time such as 10m, 1h or 2d"):
        parse_time(text)


def test_earlier_calls_count():
    clock = Clock(100.0)
    clock.add(30.0)
    assert clock.spent >= 30
    assert clock.left == pytest.approx(70, abs=5)
    clock.add(80.0)
    assert clock.left < 0
