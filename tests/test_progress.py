"""How far work has come, in words."""

import pytest

from vidfit.progress import Pace, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3599.6, "1 h"), (6054, "1 h 40 min")],
)
def test_times_are_in_units_that_people_use(seconds: float, text: str):
    assert format_seconds(seconds) == text


def test_an_estimate_needs_a_few_steps():
    now = 0.0
    pace = Pace(done=10, clock=lambda: now)
    now = 40.0
    assert (pace.speed(12, "videos"), pace.left(12, 100)) == ("", "")
    # Ten steps in 40 s; what was done before took none of them.
    assert (pace.speed(20, "videos"), pace.left(20, 100)) == ("0.25 videos/s", "5 min 20 s left")
    assert (pace.left(100, 100), pace.left(20, None)) == ("", "")


def test_fast_work_has_fewer_decimals():
    now = 0.0
    pace = Pace(clock=lambda: now)
    now = 10.0
    texts = [pace.speed(done, "steps") for done in (5, 25, 20_000)]
    assert texts == ["0.50 steps/s", "2.5 steps/s", "2,000 steps/s"]
