"""MAP@K against the official program's way of counting, written out slowly, and against cases by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidfit.errors import VidfitError
from vidfit.evaluation.ranking import SegmentRanking
from vidfit.evaluation.segment_metrics import SegmentMetrics
from vidfit.features.segments import NO_SEGMENTS, RatedSegments, rated_by_intervals

Ratings = list[tuple[int, int, float]]
"""Start, label, score."""
Videos = list[tuple[NDArray[np.float32], Ratings]]
NAMES = ("a", "b", "c")


def rated(ratings: Ratings) -> RatedSegments:
    starts, labels, scores = (np.array(column) for column in zip(*ratings, strict=True)) if ratings else ([], [], [])
    starts = np.array(starts, np.int64)
    return RatedSegments(starts, starts + 5, np.array(labels, np.int64), np.array(scores, np.float32))


def measured(videos: Videos, k: int = 100_000) -> SegmentMetrics:
    metrics = SegmentMetrics(NAMES, k)
    for probabilities_SC, ratings in videos:
        metrics.update(probabilities_SC, rated(ratings))
    return metrics


def official(videos: Videos, k: int) -> dict[str, float]:
    """Average precision by class: a submission of lines of segment ids, and a dictionary of ratings, one by one."""
    labels: dict[tuple[str, int], float] = {}
    lists: dict[int, list[tuple[float, str]]] = {label: [] for label in range(len(NAMES))}
    for video, (probabilities_SC, ratings) in enumerate(videos):
        for start, label, score in ratings:
            labels[f"{video}:{start}", label] = score
        for segment, row_C in enumerate(probabilities_SC):
            for label, probability in enumerate(row_C.tolist()):
                lists[label].append((probability, f"{video}:{5 * segment}"))
    found = {}
    for label, ranked in lists.items():
        positives = sum(score > 0 for (_, own), score in labels.items() if own == label)
        if not positives:
            continue
        submitted = [id for _, id in sorted(ranked, key=lambda pair: -pair[0])][:k]
        kept = [id for id in submitted if (id, label) in labels]
        precision = hits = 0.0
        for rank, id in enumerate(kept, start=1):
            if labels[id, label] > 0:
                hits += 1
                precision += hits / rank
        found[NAMES[label]] = precision / positives
    return found


def column(*probabilities: float) -> NDArray[np.float32]:
    """Segments of one video, of which only label a matters."""
    return np.array([[one, 0, 0] for one in probabilities], np.float32)


@pytest.mark.parametrize(
    ("ratings", "k", "expected"),
    [
        ([(0, 0, 1), (5, 0, 0), (10, 0, 1)], 100, (1 + 2 / 3) / 2),
        ([(0, 0, 1), (10, 0, 0), (15, 0, 1)], 100, (1 + 2 / 3) / 2),
        ([(0, 0, 1), (5, 0, 0), (10, 0, 1)], 2, 1 / 2),
        ([(5, 0, 1)], 1, 0),
        ([(0, 0, 1), (0, 0, 0), (5, 0, 1)], 100, 1 / 2),
        ([(0, 0, 1), (7, 0, 1)], 100, 1 / 2),
        ([(0, 0, 1), (95, 0, 1)], 100, 1 / 2),
        ([(0, 0, 1), (5, 0, 0), (5, 1, 0), (0, 2, 0)], 100, 1),
    ],
    ids=[
        "relevances 1, 0, 1",
        "unrated ones are dropped",
        "the cut is before they are dropped, and N counts what it loses",
        "nothing is left",
        "the last rating counts",
        "a positive off the grid is lost",
        "so is one after the end",
        "labels without positives are left out",
    ],
)
def test_cases_by_hand(ratings: Ratings, k: int, expected: float):
    videos = [(column(0.9, 0.8, 0.7, 0.6), ratings)]
    assert measured(videos, k).result()["map_at_k"] == pytest.approx(expected, abs=1e-12)
    assert official(videos, k)["a"] == pytest.approx(expected, abs=1e-12)


def test_the_case_of_the_issue_is_0_8333():
    result = measured([(column(0.9, 0.8, 0.7), [(0, 0, 1), (5, 0, 0), (10, 0, 1)])]).result()
    assert round(result["map_at_k"], 4) == 0.8333
    assert result["labels"] == [{"name": "a", "rated": 3, "positive": 2, "average_precision": pytest.approx(5 / 6)}]


@st.composite
def some_videos(draw: st.DrawFn) -> Videos:
    made = []
    for _ in range(draw(st.integers(1, 5))):
        segments = draw(st.integers(1, 6))
        levels = draw(st.sampled_from([3, 1000]))
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        probabilities = random.integers(levels + 1, size=(segments, 3))
        # Some are off the grid, after the end, or rated twice.
        start = st.integers(0, segments).map(lambda number: 5 * number) | st.just(7)
        ratings = draw(st.lists(st.tuples(start, st.integers(0, 2), st.sampled_from([0.0, 1.0])), max_size=12))
        made.append((probabilities.astype(np.float32) / np.float32(levels), ratings))
    return made


@given(videos=some_videos(), k=st.integers(1, 12))
def test_it_is_what_the_official_program_counts(videos: Videos, k: int):
    expected = official(videos, k)
    result = measured(videos, k).result()
    found = {label["name"]: label["average_precision"] for label in result["labels"] if label["positive"]}
    assert found == pytest.approx(expected, abs=1e-12)
    if expected:
        assert result["map_at_k"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    else:
        assert math.isnan(result["map_at_k"])


@given(videos=some_videos())
def test_unrated_segments_do_not_matter_without_a_cut(videos: Videos):
    def without(probabilities_SC: NDArray[np.float32], ratings: Ratings) -> NDArray[np.float32]:
        """Unrated ones first or last at random."""
        changed = probabilities_SC.copy()
        kept = {(start // 5, label) for start, label, _ in ratings if start % 5 == 0}
        for place in np.ndindex(changed.shape):
            if place not in kept:
                changed[place] = 1 - changed[place]
        return changed

    others = [(without(*video), video[1]) for video in videos]
    one, other = measured(videos).result(), measured(others).result()
    assert [label["average_precision"] for label in one["labels"]] == [
        label["average_precision"] for label in other["labels"]
    ]


@given(videos=some_videos())
def test_a_perfect_ranking_has_1_unless_a_positive_is_off_the_grid(videos: Videos):
    perfect = []
    for probabilities_SC, ratings in videos:
        scores = np.full(probabilities_SC.shape, 0.5, np.float32)
        own = [rating for rating in ratings if rating[0] % 5 == 0 and rating[0] < 5 * len(scores)]
        for start, label, score in own:
            scores[start // 5, label] = score
        perfect.append((scores, own))
    result = measured(perfect).result()
    assert math.isnan(result["map_at_k"]) or result["map_at_k"] == 1


@pytest.mark.parametrize("k", [1, 7, 100, 5000])
@pytest.mark.parametrize("levels", [4, 10**9], ids=["many ties", "no ties"])
def test_a_stream_keeps_the_best_in_order(k: int, levels: int):
    random = np.random.default_rng(0)
    scores_SC = (random.integers(levels, size=(6000, 3)) / levels).astype(np.float32)
    ranking = SegmentRanking(3, k)
    for part in np.array_split(scores_SC, 37):
        ranking.update(part)
    for label in range(3):
        expected = sorted(range(6000), key=lambda number: (-scores_SC[number, label], number))[:k]
        assert ranking.best(label).tolist() == expected


def test_segments_off_the_grid_are_counted():
    assert measured([(column(0.9, 0.8), [(0, 0, 1), (7, 0, 1), (10, 1, 0)])]).off_grid == 2


def test_nan_is_refused():
    with pytest.raises(VidfitError, match="NaN"):
        SegmentMetrics(NAMES).update(column(np.nan), NO_SEGMENTS)


def test_an_interval_holds_in_segments_whose_middle_it_contains():
    found = rated_by_intervals({1: [(0, 2.5), (7.5, 13)], 2: [(12, 99)]}, 4, 3)
    holding = zip(found.starts[found.scores > 0].tolist(), found.labels[found.scores > 0].tolist(), strict=True)
    assert set(holding) == {(5, 1), (10, 1), (10, 2), (15, 2)}
    assert len(found) == 12
    assert (found.ends - found.starts == 5).all()
