"""Frames that no step shows are not decoded, and the pictures stay those of a decoder that decodes all."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.videos.making import av, frames_at, write
from vidfit.videos import decode
from vidfit.videos.decode import Picture, Reading, Sampling, read_steps
from vidfit.videos.picture import to_pixels

TEXTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
UNEVEN = [0.0, *np.cumsum(np.random.default_rng(1).uniform(0.01, 0.12, 120))]


def moving(time: float) -> np.ndarray:
    """Different at each time."""
    return np.roll(TEXTURE, round(time * 100), 1) // 2 + np.uint8(time * 10)


def with_b_frames(path: Path, times: list[float]) -> Path:
    def adjust(stream):
        stream.options = {"bf": "3", "b_strategy": "0", "threads": "1"}

    return write(path, moving, times, codec="libx264", adjust=adjust)


def shown_by_a_player(path: Path, sampling: Sampling) -> list[np.ndarray]:
    """Decodes every frame, and takes the last one that has begun in the middle of each step."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
    starts = [frame.time - frames[0].time for frame in frames]
    middles = ((step + sampling.picture_time) / sampling.rate for step in itertools.count())
    shown = itertools.takewhile(lambda time: time <= starts[-1], middles)
    return [to_pixels(frames[np.searchsorted(starts, time + 1e-9) - 1], sampling.picture_size) for time in shown]


@pytest.fixture
def decoded(monkeypatch) -> list[float]:
    """The starts of the frames that were decoded."""
    starts = []
    place = decode._Clock.place

    def counted(clock, frame, damaged):
        starts.append(frame.time)
        return place(clock, frame, damaged)

    monkeypatch.setattr(decode._Clock, "place", counted)
    return starts


def pictures(path: Path, sampling: Sampling) -> list[np.ndarray]:
    return [event.pixels for event in read_steps(path, sampling, Reading()) if isinstance(event, Picture)]


@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("times", [frames_at(25, 6), frames_at(25, 4, 7.25), UNEVEN], ids=["even", "late", "uneven"])
def test_pictures_are_those_of_decoding_everything(tmp_path, times, ending, rate, decoded):
    sampling = Sampling(rate=rate, picture_size=32)
    path = with_b_frames(tmp_path / f"clip.{ending}", times)
    found = pictures(path, sampling)
    expected = shown_by_a_player(path, sampling)
    assert len(expected) >= 2
    np.testing.assert_array_equal(found[: len(expected)], expected)
    assert len(decoded) < len(times)


def test_half_of_the_frames_are_skipped(tmp_path, decoded):
    path = with_b_frames(tmp_path / "clip.mp4", frames_at(25, 6))
    pictures(path, Sampling(rate=1.0, picture_size=32))
    assert len(decoded) < 0.6 * 150


def test_nothing_is_skipped_after_a_jump_in_time(tmp_path, decoded):
    times = [*frames_at(25, 2), *frames_at(25, 4, 9.0)]
    pictures(with_b_frames(tmp_path / "clip.mkv", times), Sampling(rate=1.0, picture_size=32))
    assert len([time for time in decoded if time >= 9]) == 100
