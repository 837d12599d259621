"""The evaluation loop on batches made by hand."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from vidfit.errors import DataError
from vidfit.evaluation.evaluate import count_levels, evaluate, evaluate_labels
from vidfit.evaluation.thresholds import LEVELS, choose
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.features.segments import NO_SEGMENTS
from vidfit.features.skipped import NOTHING, Skipped


def batch(labels: list[list[int]], skipped: Skipped = NOTHING) -> Batch:
    videos = len(labels)
    return Batch(
        ids=[f"video{i}" for i in range(videos)],
        frames={"rgb": torch.zeros(videos, 2, dtype=torch.uint8)},
        num_frames=torch.ones(videos, dtype=torch.int64),
        labels=torch.tensor([label for of_video in labels for label in of_video], dtype=torch.int64),
        label_counts=torch.tensor([len(of_video) for of_video in labels]),
        segments=[NO_SEGMENTS] * videos,
        skipped=skipped,
    )


class Made(Batches):
    """Batches made by hand, each of a shard of its own."""

    def __init__(self, *batches: Batch) -> None:
        self.made = batches
        self.shards = [Path(__file__)] * len(batches)

    def shard_by_shard(self, shards: Sequence[Path]) -> Iterator[Batch | Skipped]:
        for made in self.made:
            yield made
            yield made.skipped


def test_predictions_meet_the_labels_of_their_own_batch():
    first, second = batch([[0], [2, 1]], skipped=Skipped(1, 50)), batch([[], [1]], skipped=Skipped(2, 70))
    predicted = {
        id(first): np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.7]], np.float32),
        id(second): np.array([[0.4, 0.05, 0.01], [0.6, 0.5, 0.02]], np.float32),
    }
    result = evaluate(lambda batch: predicted[id(batch)], Made(first, second), classes=3)
    # By falling score: hit, hit, hit, miss, hit at rank 5, then misses; four positives.
    assert result["gap"] == pytest.approx((1 + 1 + 1 + 0 + 4 / 5) / 4)
    assert result["hit_at_1"] == 2 / 4
    assert result["perr"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert (result["videos"], result["skipped"], result["skipped_bytes"], result["unlabelled"]) == (4, 3, 120, 1)
    assert result["seconds"] >= 0


def test_unlabelled_videos_alone_cannot_be_evaluated():
    with pytest.raises(DataError, match="none of the 2 videos has a label"):
        evaluate(lambda batch: np.zeros((2, 3), np.float32), Made(batch([[], []])), classes=3)


def test_labels_and_reliability_beside_the_same_figures():
    batches = [batch([[0], [1]]), batch([[1], []])]
    predicted = {id(batches[0]): [[0.9, 0.2, 0.1], [0.3, 0.8, 0.1]], id(batches[1]): [[0.6, 0.4, 0.1], [0.0, 0.6, 0.1]]}

    def predict(batch: Batch) -> np.ndarray:
        return np.array(predicted[id(batch)], np.float32)

    thresholds = np.array([0.5, 0.6, 0.7], np.float32)
    result, details = evaluate_labels(predict, Made(*batches), ["rain", "train", "never"], thresholds)
    alone = evaluate(predict, Made(*batches), 3, thresholds_C=thresholds)
    assert result | {"seconds": 0} == alone | {"seconds": 0}
    assert not {"micro_f1", "macro_f1"} & evaluate(predict, Made(*batches), 3).keys()
    rain, train, never = details["labels"]
    # Given to the first and third video, of which the first has it.
    decided = {"threshold": 0.5, "precision": 0.5, "recall": 1.0}
    assert rain == {"name": "rain", "positives": 1, "average_precision": 1.0, **decided}
    assert train["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    decided = {"threshold": pytest.approx(0.7), "precision": None, "recall": None}
    assert never == {"name": "never", "positives": 0, "average_precision": None, **decided}
    # Four decisions, two of them right (a video with train at 0.8, one without at 0.6), and three labels to find.
    assert result["micro_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert result["macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert (rain["average_precision"] + train["average_precision"]) / 2 == pytest.approx(result["map"])
    assert sum(row["count"] for row in details["reliability"]) == 4 * 3


def test_thresholds_come_from_the_counts_of_all_shards():
    batches = [batch([[0], []]), batch([[0], []])]
    predicted = {id(batches[0]): [[0.7], [0.1]], id(batches[1]): [[0.6], [0.2]]}
    counts = count_levels(lambda batch: np.array(predicted[id(batch)], np.float32), Made(*batches), 1)
    assert counts.positives_C.tolist() == [2]
    threshold = LEVELS[choose(counts)[0]]
    # In logits, the middle between 0.2 and 0.6.
    assert threshold == pytest.approx(0.38, abs=0.01)
