"""What all ranks together read in an epoch; ranks themselves are in test_ranks.py."""

from pathlib import Path

import torch

from tests.corpus import LABELS, VIDEOS
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.training.epochs import in_step, label_counts, label_frequencies


def test_label_frequencies(corpus: Path):
    shards = expand_shards([corpus / "train"])
    batches = Batches(shards, infer_spec(shards), len(LABELS), 7)
    labelled = [batch.multi_hot(len(LABELS)) for batch in batches]
    expected = (torch.cat(labelled).sum(0) + 0.5) / (VIDEOS["train"] + 1)
    torch.testing.assert_close(label_frequencies(batches, len(LABELS)), expected)


def test_counting_labels_reads_no_more_than_the_first_videos(corpus: Path, monkeypatch):
    monkeypatch.setattr("vidfit.training.epochs._COUNTED_VIDEOS", 10)
    shards = expand_shards([corpus / "train"])
    batches = Batches(shards, infer_spec(shards), len(LABELS), 7)
    first = [batch.multi_hot(len(LABELS)) for batch, _ in zip(batches, range(2), strict=False)]
    counts_C, videos = label_counts(batches, len(LABELS))
    assert videos == 14
    torch.testing.assert_close(counts_C, torch.cat(first).sum(0))


def test_one_process_alone_reads_an_epoch_as_it_is(corpus: Path):
    shards = expand_shards([corpus / "train"])
    batches = Batches(shards, infer_spec(shards), len(LABELS), 7, shuffle_buffer=20, seed=3)
    for start in (0, 4):
        expected = [batch.ids for batch in batches.epoch(1)][start:]
        assert [batch.ids for batch in in_step(batches, 1, start)] == expected
