"""Windows over steps, and intervals of probabilities."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest

from vidfit.errors import VidfitError
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.inference.predictor import Predictor
from vidfit.inference.timeline import Span, Timeline, TimelineOptions, from_frames, over_steps, spans, windows

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=2),))
FRAMES = {"rgb": np.random.default_rng(1).integers(256, size=(7, 2)).astype(np.uint8)}


def test_windows_cover_a_video_and_are_never_padded():
    assert windows(7, 5, 1) == [slice(0, 5), slice(1, 6), slice(2, 7)]
    assert windows(8, 5, 2) == [slice(0, 5), slice(2, 7), slice(3, 8)]
    assert windows(3, 5, 1) == [slice(0, 3)]


def test_a_step_has_the_mean_of_its_windows():
    found = over_steps(np.array([[0.2], [0.6]]), [slice(0, 2), slice(1, 3)], 3)
    np.testing.assert_allclose(found[:, 0], [0.2, 0.4, 0.6], rtol=1e-6)


def test_a_short_dip_does_not_end_an_interval():
    probabilities = np.array([0.1, 0.6, 0.35, 0.7, 0.2, 0.4, 0.1])
    (span,) = spans(probabilities, 0.5, 1, 6.8)
    assert span == pytest.approx((1.0, 4.0, 0.55))


def test_an_interval_ends_with_the_video():
    assert spans(np.array([0.0, 0.9, 0.9]), 0.5, 1, 3.4) == [Span(1.0, 3.4, 0.9)]
    assert spans(np.array([0.9, 0.9]), 0.5, 2, 0.8)[0].end == 0.8


def test_what_is_never_sure_is_no_interval():
    assert spans(np.array([0.4, 0.4]), 0.5, 1, 2.0) == []


def of_frames(frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
    """A model that decides about each frame."""
    return frames["rgb"].astype(np.float32) / 255


def of_videos(frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
    return of_frames(frames, num_frames_B).mean(axis=1)


def timeline(by_frames: bool, rate: float = 1, **options: float) -> Timeline:
    predictor = Predictor(SPEC, ("a", "b"), of_videos, run_frames=of_frames if by_frames else None)
    return Timeline(predictor, rate, TimelineOptions(**options))


def by_all_paths(frames_TC: np.ndarray, video_C: np.ndarray, rate: float) -> np.ndarray:
    """`from_frames` the slow way: the share of the paths of the chain in which the label holds in a step."""
    moment_TC, anew = np.empty_like(frames_TC), 1 - math.exp(-1 / (3 * rate))
    paths = np.array(list(itertools.product([0, 1], repeat=len(frames_TC))))
    for label, column_T in enumerate(frames_TC.T):
        mean = column_T.mean()
        ratios_T = column_T / (1 - column_T) * (1 - mean) / mean
        states = np.array([1 - mean, mean])
        moves = anew * states + (1 - anew) * np.eye(2)
        weights = states[paths[:, 0]] * moves[paths[:, :-1], paths[:, 1:]].prod(axis=1)
        weights *= (ratios_T ** (paths / max(1, rate))).prod(axis=1)
        moment_TC[:, label] = weights @ paths / weights.sum()
    return np.sqrt(video_C * moment_TC)


@pytest.mark.parametrize("rate", [0.2, 1, 4])
def test_frames_and_the_video_decide_together(rate: float):
    found_C, found_TC = timeline(True, rate).probabilities(FRAMES)
    share_TC = FRAMES["rgb"] / 255
    np.testing.assert_allclose(found_C, share_TC.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found_TC, by_all_paths(share_TC, share_TC.mean(axis=0), rate), rtol=1e-5)
    assert timeline(True).method == "frame probabilities"


def test_what_lasts_is_believed_and_a_single_frame_counts_for_less():
    long_T, short_T = np.full(9, 0.01), np.full(9, 0.01)
    long_T[3:6], short_T[4] = 0.7, 0.7
    long_T, short_T = from_frames(np.stack([long_T, short_T], axis=1), np.array([1, 1]), 1).T
    assert long_T[4] > 0.7**0.5 > short_T[4]
    assert long_T[4] == long_T.max()
    np.testing.assert_allclose(long_T, long_T[::-1], rtol=1e-6)


@pytest.mark.parametrize("likely", [0.01, 0.5, 0.99])
def test_frames_that_all_say_the_same_are_taken_at_their_word(likely: float):
    found_TC = from_frames(np.full((30, 1), likely), np.array([likely]), 1)
    np.testing.assert_allclose(found_TC, likely, rtol=1e-6)


def test_frames_that_repeat_are_no_news():
    frames_TC = np.array([[0.02], [0.3], [0.6], [0.1], [0.01]])
    once_TC, twice_TC = (from_frames(frames_TC.repeat(each, axis=0), np.array([0.7]), each) for each in (1, 2))
    np.testing.assert_allclose(twice_TC.reshape(5, 2).mean(axis=1), once_TC[:, 0], atol=0.06)


def test_certain_frames_give_finite_probabilities():
    found_TC = from_frames(np.array([[1, 0], [1, 0], [0, 1]], np.float32), np.array([1, 0], np.float32), 1)
    assert (np.abs(found_TC - [[1, 0], [1, 0], [0, 0]]) < 0.02).all()
    np.testing.assert_allclose(from_frames(np.array([[0.25]]), np.array([1.0]), 1), [[0.5]], rtol=1e-6)


@pytest.mark.parametrize(("by_frames", "options"), [(False, {}), (True, {"window": 5}), (True, {"hop": 1})])
def test_windows_are_used_where_asked_for_or_needed(by_frames: bool, options: dict[str, float]):
    made = timeline(by_frames, **options)
    _, found_TC = made.probabilities(FRAMES)
    parts = [FRAMES["rgb"][start : start + 5] / 255 for start in range(3)]
    covering = [[0], [0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 2], [2]]
    expected_TC = [np.mean([parts[window].mean(axis=0) for window in windows], axis=0) for windows in covering]
    np.testing.assert_allclose(found_TC, expected_TC, rtol=1e-5)
    assert made.method == "windows of 5 s, one every 1 s"


def test_windows_are_seconds_at_any_rate():
    at_two, at_one = (timeline(False, rate, window=4 / rate, hop=2 / rate).probabilities(FRAMES) for rate in (2, 1))
    np.testing.assert_array_equal(at_two[1], at_one[1])


def test_intervals_of_all_labels_end_with_the_last_step():
    found = timeline(True, rate=2).intervals(np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]))
    assert found == [[(0.0, 1.0)], [(1.0, 1.5)]]


@pytest.mark.parametrize("options", [{"window": 0}, {"hop": 0}, {"hop": 6}, {"window": 0.5}, {"threshold": 0}])
def test_options_that_make_no_timeline_are_refused(options: dict[str, float]):
    with pytest.raises(VidfitError, match="give"):
        TimelineOptions(**options)
