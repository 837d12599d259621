"""What a run says of its labels before it trains."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.features.test_loader import SPEC, make_video
from vidfit.features.example import write_shard
from vidfit.features.spec import Video, Vocabulary
from vidfit.features.survey import survey_shards
from vidfit.run_data import RunData, tell_of_labels

NAMES = ("cat", "dog", "bird", "fish", "horse")


@pytest.fixture
def told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The log's lines about videos with these labels."""

    def tell(
        train: Sequence[Sequence[int]], validation: Sequence[Sequence[int]], labelled_only: bool = False
    ) -> list[str]:
        shards = {"train": [tmp_path / "train"], "validation": [tmp_path / "validation"], "eval": []}
        for (path,), labels in zip((shards["train"], shards["validation"]), (train, validation), strict=True):
            frames = make_video(0).frames
            write_shard(path, [Video(f"v{place}", frames, np.array(own, int)) for place, own in enumerate(labels)])
        surveys = survey_shards([*shards["train"], *shards["validation"]])
        with caplog.at_level(logging.INFO):
            tell_of_labels(RunData(shards, surveys, Vocabulary(names=NAMES), SPEC, False, labelled_only))
        return [record.getMessage() for record in caplog.records]

    return tell


ENOUGH = [[label] for label in range(5)] * 10


def test_one_label_per_video_is_told(told):
    assert told(ENOUGH, [[2], [0]]) == [
        "each video has exactly one label, so accuracy and top-5 accuracy are reported too"
    ]


@pytest.mark.parametrize(("train", "validation"), [([[1, 2]], [[0]]), ([], [[0, 1]]), ([[]], [[0]])])
def test_several_labels_or_none_are_not(told, train: list[list[int]], validation: list[list[int]]):
    assert not any("exactly one" in line for line in told(ENOUGH + train, validation))


def test_videos_that_are_skipped_need_no_label(told):
    assert told([*ENOUGH, []], [[0], []], labelled_only=True)[-1].startswith("each video has exactly one label")


def test_rare_labels_are_named(told, monkeypatch: pytest.MonkeyPatch):
    (line,) = told([[0, 1]] * 10 + [[2, 3]] * 9 + [[4, 1]], [[0, 1]])
    assert line == (
        "3 of 5 labels have fewer than 10 videos, too few to learn them well: 'bird' 9, 'fish' 9, 'horse' 1"
    )
    monkeypatch.setattr("vidfit.run_data._MOST_NAMED", 3)
    (*_, line) = told([[0, 1]], [[0, 1]])
    assert line.endswith("too few to learn them well: 'cat' 1, 'dog' 1, 'bird' 0, ...")
