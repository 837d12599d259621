"""GAP, mAP, Hit@1 and PERR against the reference vectors and against loops written from their definitions."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfit.errors import VidfitError
from vidfit.evaluation.metrics import Metrics, average_precision, top_classes


def plain_average_precision(ranked_hits: list[bool], positives: int) -> float:
    found, summed = 0, 0.0
    for rank, hit in enumerate(ranked_hits, start=1):
        if hit:
            found += 1
            summed += found / rank
    return summed / positives if positives else 0.0


def plain_metrics(scores: np.ndarray, positive: np.ndarray, top_k: int) -> dict[str, float]:
    """The definitions, one video and one class at a time; scores must be distinct."""
    videos, classes = scores.shape
    kept = [(scores[v, c], v, c) for v in range(videos) for c in np.argsort(-scores[v])[:top_k]]
    kept.sort(reverse=True)
    per_class = [
        plain_average_precision([positive[v, c] for _, v, c in kept if c == wanted], positive[:, wanted].sum())
        for wanted in range(classes)
    ]
    with_positives = [per_class[c] for c in range(classes) if positive[:, c].any()]
    perr = [
        positive[v, np.argsort(-scores[v])[: positive[v].sum()]].mean() if positive[v].any() else 0.0
        for v in range(videos)
    ]
    return {
        "gap": plain_average_precision([positive[v, c] for _, v, c in kept], positive.sum()),
        "map_winner": float(np.mean(per_class)),
        "map_google": float(np.mean(with_positives)),
        "hit_at_1": float(np.mean([positive[v, scores[v].argmax()] for v in range(videos)])),
        "perr": float(np.mean(perr)),
    }


def gap_over_ties(scores: np.ndarray, positive: np.ndarray, top_k: int, best: bool) -> float:
    """GAP where every tie, of the choice of the top k as of their order, falls for or against the hits."""
    preference = ~positive if best else positive
    chosen = np.lexsort((preference, -scores), axis=1)[:, :top_k]
    chosen_scores = np.take_along_axis(scores, chosen, axis=1).ravel()
    hits = np.take_along_axis(positive, chosen, axis=1).ravel()
    order = np.lexsort((~hits if best else hits, -chosen_scores))
    return plain_average_precision(hits[order].tolist(), positive.sum())


def test_golden_metrics(golden_dir):
    vectors = np.load(golden_dir / "metrics.npz")
    cases = sorted({key.split("/")[0] for key in vectors})
    assert cases
    for case in cases:
        batches = range(int(vectors[f"{case}/num_batches"]))
        scores = [vectors[f"{case}/batch{j}/predictions"].astype(np.float32) for j in batches]
        positive = [vectors[f"{case}/batch{j}/labels"].astype(bool) for j in batches]
        metrics = Metrics(classes=scores[0].shape[1])
        for batch_scores, batch_positive in zip(scores, positive, strict=True):
            metrics.update(batch_scores, batch_positive)
        result = metrics.result()
        expected = {key: float(vectors[f"{case}/{key}"]) for key in ("gap", "perr", "map_google", "map_winner")}

        assert result["videos"] == sum(map(len, scores)), case
        assert result["hit_at_1"] == pytest.approx(float(vectors[f"{case}/hit_at_one"]), abs=1e-6), case
        low, high = float(vectors[f"{case}/gap_ties_low"]), float(vectors[f"{case}/gap_ties_high"])
        all_scores, all_positive = np.concatenate(scores), np.concatenate(positive)
        # The reference's bounds take its own top 20 for given: ties across the 20th place widen them.
        if ties_straddle(all_scores, 20):
            low = gap_over_ties(all_scores, all_positive, 20, best=False)
            high = gap_over_ties(all_scores, all_positive, 20, best=True)
        assert low - 1e-12 <= result["gap"] <= high + 1e-12, case
        if high - low < 1e-12:
            actual = {key: result[key] for key in expected}
            assert actual == pytest.approx(expected, abs=1e-9, nan_ok=True), case
            assert result["map"] == result["map_google"] or np.isnan(expected["map_google"]), case


def ties_straddle(scores: np.ndarray, k: int) -> bool:
    ranked = -np.sort(-scores, axis=1)
    return ranked.shape[1] > k and bool((ranked[:, k - 1] == ranked[:, k]).any())


def test_golden_average_precision(golden_dir):
    vectors = np.load(golden_dir / "ap.npz")
    cases = sorted({key.split("/")[0] for key in vectors})
    assert cases
    for case in cases:
        scores, hits = vectors[f"{case}/p"], vectors[f"{case}/y"]
        assert average_precision(scores, hits) == pytest.approx(float(vectors[f"{case}/ap"]), abs=1e-12)
        at_20 = average_precision(scores, hits, n=20)
        assert at_20 == pytest.approx(float(vectors[f"{case}/ap_at_20"]), abs=1e-12)
        at_5 = average_precision(scores, hits, positives=50, n=5)
        assert at_5 == pytest.approx(float(vectors[f"{case}/ap_at_5_numpos50"]), abs=1e-12)


@settings(max_examples=60)
@given(
    videos=st.integers(1, 12),
    classes=st.integers(1, 9),
    top_k=st.integers(1, 9),
    batch=st.integers(1, 12),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_metrics_follow_their_definitions(videos, classes, top_k, batch, share, seed):
    rng = np.random.default_rng(seed)
    scores = (rng.permutation(videos * classes).reshape(videos, classes) + 1).astype(np.float32)
    positive = rng.random((videos, classes)) < share
    positive[0, 0] = True
    metrics = Metrics(classes, top_k)
    for start in range(0, videos, batch):
        rows = slice(start, start + batch)
        # Ragged labels in any order, as batches hold them.
        labels = [rng.permutation(np.flatnonzero(row)) for row in positive[rows]]
        metrics.update(scores[rows], np.concatenate(labels), np.array([len(found) for found in labels]))
    expected = plain_metrics(scores, positive, top_k)
    assert {key: metrics.result()[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(rows=st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4), k=st.integers(1, 6))
def test_top_classes_break_ties_by_the_lower_index(rows, k):
    expected = [sorted(range(6), key=lambda c: (-row[c], c))[:k] for row in rows]
    assert top_classes(np.array(rows, np.float32), k).tolist() == expected


def test_float32_scores_one_bit_apart_are_told_apart():
    below, above = np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1))
    metrics = Metrics(classes=2)
    metrics.update(np.array([[below, above]]), np.array([[False, True]]))
    assert metrics.result()["gap"] == 1.0


def test_a_score_of_nan_is_refused():
    with pytest.raises(VidfitError, match="NaN"):
        Metrics(classes=3).update(np.array([[0.1, np.nan, 0.2]], np.float32), np.zeros((1, 3), bool))


def test_without_videos_there_is_no_map():
    result = Metrics(classes=3).result()
    assert (result["videos"], result["gap"]) == (0, 0)
    assert np.isnan(result["map"])


def test_a_video_takes_140_bytes():
    """7 bytes for each of its 20 classes; the 1.1 million of YouTube-8M fit in memory."""
    metrics = Metrics(classes=3862)
    scores = np.random.default_rng(0).random((500, 3862), np.float32)
    metrics.update(scores, scores > 0.999)
    before = len(pickle.dumps(metrics))
    for _ in range(4):
        metrics.update(scores, scores > 0.999)
    assert len(pickle.dumps(metrics)) - before < 4 * 500 * 140 + 2000


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 12))
def test_accuracy_is_that_of_the_best_and_the_best_five(seed: int, videos: int, classes: int):
    random = np.random.default_rng(seed)
    scores = random.permuted(np.tile(np.arange(classes, dtype=np.float32), (videos, 1)), axis=1)
    labels = random.integers(0, classes, videos)
    ranks = [int((row > row[label]).sum()) for row, label in zip(scores, labels, strict=True)]
    whole, later = Metrics(classes, top_k=3), Metrics(classes, top_k=3)
    half = videos // 2
    whole.update(scores[:half], labels[:half], np.ones(half, int))
    later.update(scores[half:], labels[half:], np.ones(videos - half, int))
    whole.merge(later)
    result = whole.result()
    assert result["accuracy"] == result["hit_at_1"] == sum(rank < 1 for rank in ranks) / videos
    assert result["top_5_accuracy"] == sum(rank < 5 for rank in ranks) / videos


@pytest.mark.parametrize("counts", [[1, 2], [1, 0]])
def test_there_is_no_accuracy_if_a_video_has_not_one_label(counts: list[int]):
    scores, labels = np.array([[0.1, 0.9], [0.2, 0.8]], np.float32), np.array([1, 0, 1])[: sum(counts)]
    metrics = Metrics(2)
    metrics.update(scores, labels, np.array(counts))
    assert "accuracy" not in metrics.result()
    assert "accuracy" not in Metrics(2).result()
