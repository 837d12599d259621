"""The transform against its definition in float64."""

import tracemalloc

import numpy as np
import pytest

from vidfit.videos.transform import ABSENT, Transform, fit_transform


@pytest.fixture(scope="module")
def videos() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, 40)) * np.array([9, 5, 3, 2, 1, 0.5])[:, None]
    return [(generator.normal(size=(30, 6)) @ mixing + 4).astype(np.float32) for _ in range(8)]


def dequantized(codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.float64) * 4 / 255 + 4 / 512 - 2


def test_the_components_explain_what_there_is(videos):
    transform = fit_transform(videos, 6)
    values = dequantized(transform.apply(videos[0], np.ones(30, bool)))
    components = np.asarray(transform.components, np.float64) * transform.scale
    back = values @ np.linalg.pinv(components) + transform.mean
    error = np.square(back - videos[0]).mean() / np.square(videos[0] - transform.mean).mean()
    assert error < 0.02


def test_components_are_sorted_by_what_they_explain(videos):
    transform = fit_transform(videos, 6)
    spread = dequantized(transform.apply(np.concatenate(videos), np.ones(240, bool))).std(0)
    assert (np.diff(spread) < 0).all()


def test_an_absent_step_is_the_mean(videos):
    transform = fit_transform(videos, 6)
    present = np.arange(30) % 2 == 0
    codes = transform.apply(videos[0], present)
    assert (codes[~present] == ABSENT).all()
    assert (codes[present] != ABSENT).any(axis=1).all()
    np.testing.assert_array_equal(transform.apply(transform.mean[None], np.ones(1, bool)), ABSENT)


def test_no_more_components_than_the_videos_have(videos):
    transform = fit_transform(videos, 20)
    codes = transform.apply(np.concatenate(videos), np.ones(240, bool))
    assert (codes[:, 6:] == ABSENT).all()
    assert (codes[:, :6] != ABSENT).any()


def test_videos_that_are_all_alike_become_the_mean():
    video = np.full((5, 8), 0.1, np.float32)
    transform = fit_transform([video, video], 4)
    np.testing.assert_array_equal(transform.apply(video, np.ones(5, bool)), ABSENT)


def test_a_step_has_the_same_bytes_in_any_video(videos):
    transform = fit_transform(videos, 6)
    whole = transform.apply(videos[0], np.ones(30, bool))
    alone = np.concatenate([transform.apply(row[None], np.ones(1, bool)) for row in videos[0]])
    np.testing.assert_array_equal(whole, alone)


def test_it_is_the_same_after_json(videos):
    transform = fit_transform(videos, 6)
    again = Transform.model_validate_json(transform.model_dump_json())
    np.testing.assert_array_equal(
        again.apply(videos[1], np.ones(30, bool)), transform.apply(videos[1], np.ones(30, bool))
    )


def test_a_long_video_needs_no_copy_of_its_embeddings(videos):
    transform = fit_transform(videos, 2)
    long = np.concatenate(videos * 200)
    present = np.ones(len(long), bool)
    tracemalloc.start()
    try:
        transform.apply(long, present)
        assert tracemalloc.get_traced_memory()[1] < long.nbytes / 10
    finally:
        tracemalloc.stop()
