"""The two halves of the validation videos."""

from pathlib import Path

import numpy as np
import pytest

from tests.corpus import LABELS, SIZES, videos
from vidfit.errors import DataError
from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch
from vidfit.features.example import write_shard
from vidfit.features.loader import Batches
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.search import validation as halves
from vidfit.search.validation import BATCH_SIZE, Validation

SPEC = FeatureSpec(modalities=tuple(Modality(name=name, size=size) for name, size in SIZES.items()))


@pytest.fixture
def validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Validation:
    """70 videos, in batches of 16 and of 32."""
    monkeypatch.setattr(halves, "BATCH_SIZE", 16)
    monkeypatch.setattr(halves, "_JOINED", 2)
    write_shard(tmp_path / "many.tfrecord", videos(70, 3))
    return Validation(Batches([tmp_path / "many.tfrecord"], SPEC, len(LABELS), 16))


def means(batch: Batch) -> np.ndarray:
    """Something of a batch that depends on the videos, in the shape of predictions."""
    lengths = batch.num_frames.numpy().astype(np.float32)[:, None]
    return lengths / 16 * np.arange(1, len(LABELS) + 1, dtype=np.float32) / len(LABELS)


def test_the_halves_are_all_videos_once_those_that_select_first(validation: Validation):
    assert len(validation.labels_VC) == 70
    # Batches of 16: the first, the third and the fifth select, of 16, 16 and 6 videos.
    assert validation.selecting == 38
    selecting = validation.selecting_batches(1000)
    assert [len(batch) for batch in selecting] == [32, 6]
    np.testing.assert_array_equal(
        validation.predictions(means)[:38], np.concatenate([means(batch) for batch in selecting]).astype(np.float16)
    )
    np.testing.assert_array_equal(
        validation.labels_VC[:38], np.concatenate([batch.multi_hot(len(LABELS)).numpy() for batch in selecting]) > 0
    )
    assert [len(batch) for batch in validation.selecting_batches(16)] == [16]


def test_the_gap_of_each_half_is_that_of_its_videos(validation: Validation):
    predicted = validation.predictions(means)
    found = validation.gaps(predicted)
    for name, rows in (("gap_selection", slice(38)), ("gap_confirmation", slice(38, None))):
        metrics = Metrics(len(LABELS))
        metrics.update(predicted[rows].astype(np.float32), validation.labels_VC[rows])
        assert found[name] == metrics.result()["gap"]


def test_too_few_videos_for_two_halves_are_an_error(tmp_path: Path):
    write_shard(tmp_path / "few.tfrecord", videos(BATCH_SIZE, 3))
    with pytest.raises(DataError, match=f"has {BATCH_SIZE} videos; .* give more than {BATCH_SIZE} labelled"):
        Validation(Batches([tmp_path / "few.tfrecord"], SPEC, len(LABELS), BATCH_SIZE))
