"""Times as people write them, and what is left of one."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fitting.making import SOLVED, write_names, write_videos
from vidfit.errors import VidfitError
from vidfit.fitting import clock as clocks
from vidfit.fitting.clock import Clock, parse_time, seconds_per_step
from vidfit.progress import silent
from vidfit.recipe import DataConfig, MemberConfig
from vidfit.run_data import read_data


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


def test_a_step_of_all_videos_is_timed_by_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """48 of 96 videos are pooled in 30 seconds, once in 12 steps; three losses of these take 6."""
    shard, names = write_videos(tmp_path / "a.tfrecord", 96), write_names(tmp_path / "names.csv")
    data = read_data(DataConfig(train=[str(shard)], vocabulary=str(names)), silent)
    reads = iter([100.0, 130.0, 200.0, 206.0])
    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter=lambda: next(reads)))
    assert seconds_per_step(MemberConfig.model_validate(SOLVED), data) == 2 * (1.25 * 2 + 30 / 12)
