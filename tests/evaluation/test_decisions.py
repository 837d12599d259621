"""Precision, recall and F1 against their definitions, label by label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfit.evaluation.decisions import Decisions


def measured(scores: np.ndarray, positive: np.ndarray, thresholds: np.ndarray) -> Decisions:
    decisions = Decisions(thresholds)
    for rows in (slice(None, 3), slice(3, None)):
        part = Decisions(thresholds)
        videos, labels = np.nonzero(positive[rows])
        part.update(scores[rows], labels, np.bincount(videos, minlength=len(scores[rows])))
        decisions.merge(part)
    return decisions


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_all_figures_by_their_definitions(seed: int, videos: int, classes: int):
    random = np.random.default_rng(seed)
    scores = random.random((videos, classes)).astype(np.float32)
    positive = random.random((videos, classes)) < 0.4
    thresholds = random.random(classes).astype(np.float32)
    decisions = measured(scores, positive, thresholds)
    f1 = []
    for label, row in enumerate(decisions.labels()):
        pairs = list(zip((scores[:, label] >= thresholds[label]).tolist(), positive[:, label].tolist(), strict=True))
        right, wrong, missed = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
        assert row["threshold"] == float(thresholds[label])
        assert row["precision"] == (right / (right + wrong) if right + wrong else None)
        assert row["recall"] == (right / (right + missed) if right + missed else None)
        if right + missed:
            f1.append(2 * right / (2 * right + wrong + missed))
    result = decisions.result()
    if f1:
        assert result["macro_f1"] == pytest.approx(np.mean(f1))
    given_to = scores >= thresholds
    right = (given_to & positive).sum()
    assert result["micro_precision"] == pytest.approx(right / given_to.sum() if given_to.any() else 0)
    assert result["micro_recall"] == pytest.approx(right / positive.sum() if positive.any() else 0)
    total = given_to.sum() + positive.sum()
    assert result["micro_f1"] == pytest.approx(2 * (given_to & positive).sum() / total if total else 0)
