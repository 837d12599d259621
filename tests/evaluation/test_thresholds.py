"""Chosen thresholds against a search over all of them, and what must hold for any predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfit.evaluation.thresholds import LEVELS, LevelCounts, choose, decode, encode, not_chosen


def counted(scores: np.ndarray, positive: np.ndarray, batch_size: int = 7) -> LevelCounts:
    counts = LevelCounts(scores.shape[1])
    for start in range(0, len(scores), batch_size):
        rows = slice(start, start + batch_size)
        videos, labels = np.nonzero(positive[rows])
        counts.update(scores[rows], labels, np.bincount(videos, minlength=len(scores[rows])))
    return counts


def made(seed: int, videos: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores that tell something, and labels of which each video has one at least."""
    random = np.random.default_rng(seed)
    positive = random.random((videos, classes)) < random.uniform(0.05, 0.6, classes)
    positive[:, 0] |= ~positive.any(axis=1)
    logits = random.normal(2 * positive - 2, 1.5) + random.normal(0, 1, classes)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), positive


def right_and_given(scores: np.ndarray, positive: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each label, and the average label's on top, by the definition."""
    chosen = scores >= threshold
    right, given_to = (chosen & positive).sum(axis=0), chosen.sum(axis=0)
    typical = 100 / positive.sum()
    return right + typical * right.sum(), given_to + typical * given_to.sum()


corpora = st.tuples(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6))


@given(corpora)
@settings(max_examples=60, deadline=None)
def test_no_other_threshold_has_a_better_f1(corpus: tuple[int, int, int]):
    scores, positive = made(*corpus)
    levels = choose(counted(scores, positive).result())
    f1 = []
    for threshold in LEVELS:
        right, given_to = right_and_given(scores, positive, threshold)
        f1.append(2 * right / (given_to + positive.sum(axis=0) + 100))
    found = np.array(f1)[levels, np.arange(len(levels))]
    np.testing.assert_allclose(found, np.max(f1, axis=0), rtol=1e-8)


@given(corpora, st.floats(0.05, 1))
@settings(max_examples=60, deadline=None)
def test_the_lowest_threshold_with_the_precision_asked_for(corpus: tuple[int, int, int], asked: float):
    scores, positive = made(*corpus)
    levels = choose(counted(scores, positive).result(), asked)
    for label, level in enumerate(levels):
        reaching = []
        for place, threshold in enumerate(LEVELS):
            right, given_to = right_and_given(scores, positive, threshold)
            if right[label] > 0 and right[label] >= asked * given_to[label] - 1e-9:
                reaching.append(place)
        assert level == min(reaching, default=len(LEVELS) - 1)


@given(corpora, st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_batches_and_their_order_do_not_matter(corpus: tuple[int, int, int], batch_size: int):
    scores, positive = made(*corpus)
    once = counted(scores, positive, len(scores)).result()
    half = len(scores) // 2
    merged = counted(scores[half:], positive[half:], batch_size)
    merged.merge(counted(scores[:half][::-1], positive[:half][::-1], batch_size))
    for one, other in zip(once, merged.result(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_rare_label_gets_nearly_the_common_threshold():
    """One lucky positive at 0.9 must not set the bar; two thousand of them must."""
    common = np.tile(np.repeat([0.6, 0.1], 50).astype(np.float32)[:, None], (1, 8))
    is_common = common > 0.5
    for positives, moved in ((1, False), (2000, True)):
        scores = np.concatenate([common, np.tile([[0.01] * 8], (2 * positives, 1)).astype(np.float32)])
        own = np.repeat([0.05, 0.9, 0.8], [100, positives, positives]).astype(np.float32)
        has = np.concatenate([is_common, np.zeros((2 * positives, 8), bool)])
        own_has = own > 0.85
        levels = choose(counted(np.c_[scores, own], np.c_[has, own_has]).result())
        assert (LEVELS[levels[-1]] > 0.8) == moved
        assert (LEVELS[levels[:-1]] > 0.1).all()
        assert (LEVELS[levels[:-1]] <= 0.6).all()


def test_a_label_without_positives_gets_the_common_threshold():
    scores = np.array([[0.7, 0.01], [0.3, 0.01]], np.float32)
    levels = choose(counted(scores, np.array([[True, False], [False, False]])).result())
    assert abs(int(levels[0]) - int(levels[1])) <= 1
    # In the middle between the two videos, in logits.
    assert LEVELS[levels[0]] == pytest.approx(0.5, abs=0.02)


def test_a_probability_that_equals_a_threshold_reaches_it():
    for level in (0, 127, 254):
        right, wrong, positives = counted(LEVELS[[[level]]], np.array([[True]])).result()
        assert right.sum() == level + 1
        assert (wrong.sum(), positives.tolist()) == (0, [1.0])


def test_nothing_reaches_the_precision():
    scores, positive = np.full((4, 1), 0.5, np.float32), np.array([[True], [False], [False], [False]])
    assert choose(counted(scores, positive).result(), precision=0.9).tolist() == [254]


@given(st.lists(st.integers(0, 254), min_size=1, max_size=50))
def test_text_holds_the_levels_in_few_bytes(levels: list[int]):
    text = encode(np.array(levels, np.uint8))
    thresholds = decode(text, len(levels))
    assert thresholds is not None
    np.testing.assert_array_equal(thresholds, LEVELS[levels])
    assert thresholds.dtype == np.float32
    assert len(text) == len(not_chosen(len(levels))) == 4 * -(-len(levels) // 3)
    assert decode(not_chosen(len(levels)), len(levels)) is None


def test_text_by_its_definition():
    """What docs/reference/file-formats.md says: sigmoid((byte - 128) / 16)."""
    thresholds = decode("AYD/", 3)
    assert thresholds is not None
    np.testing.assert_allclose(thresholds, 1 / (1 + np.exp(-(np.array([1.0, 128, 255]) - 128) / 16)), rtol=1e-6)


@pytest.mark.parametrize("text", ["A", "AAA", "!AAA", "AYD/AYD/", ""])
def test_other_text_is_refused(text: str):
    with pytest.raises(ValueError, match=r"[Bb]ase64|padding|data|holds [06] thresholds for 3 labels"):
        decode(text, 3)
