"""What each of the two processes of test_ranks.py runs: `python -m tests.training.two_ranks FOLDER`."""

import json
import sys
from collections.abc import Iterator
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any

import torch

from tests.corpus import LABELS
from vidfit import distributed
from vidfit.errors import VidfitError
from vidfit.features.batch import Batch, joined
from vidfit.features.clips import Clips
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.features.spec import Video
from vidfit.inference.distributed_jobs import measure, measure_labels, predict, soft_label
from vidfit.models.classifier import ClassifierConfig
from vidfit.training.checkpoint import BEST, MemberInfo
from vidfit.training.config import TrainingConfig
from vidfit.training.trainer import train_member

RANKS = 2
CLASSIFIERS = {
    # Batch norm over frames and over videos, with and without a mask.
    "netvlad": {
        "family": {"type": "netvlad", "clusters": 4, "hidden": 8, "relu": True, "gating": True},
        "head": {"type": "moe", "experts": 2},
    },
    "lstm": {"encoder": {"hidden": 12}, "family": {"type": "lstm", "cells": 8}, "head": {"type": "logistic"}},
    "segments": {"encoder": {"hidden": 12, "cells": 6}, "family": {"type": "frame-classifier", "pooling": "attention"}},
    "linear": {"family": {"type": "mean"}, "head": {"type": "logistic", "l2": 0.01}},
}
STEPS = {
    "epochs": 2,
    "batch_size": 8,
    "sample_frames": 5,
    "learning_rate": 0.01,
    "validate_every": 1,
    "batch_norm_momentum": 0.1,
    "averaging": {"steps": 4, "ema_decay": 0.5},
}
"""Two epochs and then a few steps of averaging, validated after every step."""
CONFIGS = {
    "netvlad": STEPS | {"sampling": "none"},
    "lstm": STEPS | {"sampling": "replacement"},
    "segments": STEPS | {"sampling": "none", "segments": {"context": "video"}},
    "linear": {"solver": "lbfgs", "steps": 200},
}
TRAINING = {"netvlad": "train", "lstm": "cache", "segments": "train", "linear": "train"}
"""From shards, one process has to compose its batches of what the ranks read; from a cache they are the same anyway."""


class Composed(Batches):
    """What ranks read, as the batches of one process."""

    def __init__(self, whole: Batches) -> None:
        vars(self).update(vars(whole))
        self.whole = whole

    def epoch(self, number: int, start: int = 0, skipped: Skipped = NOTHING) -> Iterator[Batch]:
        shares = [self.whole.of_rank(rank, RANKS).epoch(number, start, skipped) for rank in range(RANKS)]
        for parts in zip_longest(*shares):
            there = [part for part in parts if part is not None]
            # They take turns.
            turns = sorted((row, rank) for rank, part in enumerate(there) for row in range(len(part)))
            starts = list(accumulate(map(len, there), initial=0))
            yield joined(there).rows(torch.tensor([starts[rank] + row for row, rank in turns]))


def train_on_ranks(family: str, shards: Path, corpus: Path, folder: Path, compose: bool = False) -> MemberInfo:
    """Train and validate a member."""
    training, validation = expand_shards([shards]), expand_shards([corpus / "validation"])
    spec = infer_spec(training)
    config = TrainingConfig.model_validate(CONFIGS[family])
    info = MemberInfo(
        name=family,
        classifier=ClassifierConfig.model_validate(CLASSIFIERS[family]),
        spec=spec,
        vocabulary=LABELS,
        step=0,
        gap_validation=None,
    )
    clips = _halves([*training, *validation]) if config.segments else None
    batches = Batches(training, spec, len(LABELS), 8, shuffle_buffer=10, seed=3, clips=clips)
    return distributed.on_all_ranks(
        train_member,
        info,
        config,
        Composed(batches) if compose else batches,
        Batches(validation, spec, len(LABELS), 16, clips=clips),
        folder / family,
        3,
    )


def _halves(shards: list[Path]) -> Clips:
    """Segments of three seconds. The labels of every second video hold in the first one alone."""
    read = (video for shard in shards for video in read_videos(shard) if isinstance(video, Video))
    until = ((video, 3.0 if number % 2 else 9.0) for number, video in enumerate(read))
    intervals = {video.id: {label: [(0.0, end)] for label in video.labels.tolist()} for video, end in until}
    return Clips(None, 1, len(LABELS), intervals, seconds=3)


def over_shards(member: Path, corpus: Path, folder: Path) -> dict[str, Any]:
    """Evaluate, predict and label soft; gives the figures."""
    shards = expand_shards([corpus / "train", corpus / "validation"])
    predicted = distributed.on_all_ranks(predict, member, shards, folder / "predicted.csv", 3, False, False, 1, 0, 4)
    labelled, skipped = distributed.on_all_ranks(soft_label, [member], shards, folder / "soft", 3)
    figures = distributed.on_all_ranks(measure, member, shards)
    _, details = distributed.on_all_ranks(measure_labels, member, shards)
    written = {**vars(predicted), "skipped": str(predicted.skipped)}
    return {"predicted": written, "labelled": [labelled, str(skipped)], **figures, "seconds": 0, **details}


def main(corpus: Path, folder: Path) -> None:
    """All that works, and then what one rank cannot read."""
    for family in CLASSIFIERS:
        train_on_ranks(family, corpus / TRAINING[family], corpus, folder)
    figures = over_shards(folder / "netvlad" / BEST, corpus, folder)
    (folder / "figures.json").write_text(json.dumps(figures))
    train_on_ranks("lstm", corpus / "damaged", corpus, folder / "fails")


if __name__ == "__main__":
    try:
        distributed.run(lambda: main(*map(Path, sys.argv[1:])))
    except VidfitError as error:
        sys.exit(f"told: {error}")
