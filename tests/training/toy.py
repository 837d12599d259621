"""A training of a second: 20 steps of a small NetVLAD on the small corpus, validated at every fifth."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.corpus import LABELS
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.models.classifier import ClassifierConfig
from vidfit.progress import OnCount, uncounted
from vidfit.training.checkpoint import BEST, MemberInfo, read_member
from vidfit.training.checkpoint_manager import LAST, Checkpoints
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import SoftTargets
from vidfit.training.progress_meter import Progress
from vidfit.training.soft_labels import SoftLabels, label_shards
from vidfit.training.trainer import train_member

CONFIG = TrainingConfig(
    steps=20, batch_size=16, sample_frames=5, learning_rate=0.02, validate_every=5, batch_norm_momentum=0.1
)
EVERY_STEP = CONFIG.model_copy(update={"checkpoint_minutes": 1e-9})
CLASSIFIER = ClassifierConfig.model_validate(
    {
        "family": {"type": "netvlad", "clusters": 4, "hidden": 8},
        "head": {"type": "moe", "experts": 2, "dropout": 0.3},
    }
)


class StopError(Exception):
    """Stands for a kill."""


def go(
    corpus: Path,
    folder: Path,
    config: TrainingConfig = CONFIG,
    seed: int = 1,
    stop_at: int | None = None,
    classifier: ClassifierConfig = CLASSIFIER,
    soft_targets: SoftTargets | None = None,
    log: Callable[[str], None] = lambda _: None,
    on_pooled: OnCount = uncounted,
) -> MemberInfo:
    shards = {name: expand_shards([corpus / name]) for name in ("train", "validation")}
    spec = infer_spec(shards["train"])
    info = MemberInfo(name="m", classifier=classifier, spec=spec, vocabulary=LABELS, step=0, gap_validation=None)

    def on_progress(now: Progress) -> None:
        if stop_at and now.step >= stop_at:
            raise StopError

    return train_member(
        info,
        config,
        Batches(shards["train"], spec, len(LABELS), config.batch_size, shuffle_buffer=40, seed=seed),
        Batches(shards["validation"], spec, len(LABELS), 16),
        folder,
        seed,
        on_progress,
        on_pooled,
        soft_targets,
        log,
    )


def label(corpus: Path, folder: Path, probability: float) -> SoftLabels:
    """A teacher for whom every label of every training video has the same probability."""
    folder.mkdir()
    shards = expand_shards([corpus / "train"])
    spec = infer_spec(shards)
    teacher = {shards[0]: lambda batch: np.full((len(batch), len(LABELS)), probability, np.float32)}
    label_shards(shards, folder, teacher, LABELS, 5, lambda shard: Batches([shard], spec, len(LABELS), 7))
    return SoftLabels(folder, LABELS)


def weights(folder: Path, file: str = LAST) -> dict[str, torch.Tensor]:
    return read_member(folder / file)[1]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def go_until(step: int, corpus: Path, folder: Path, config: TrainingConfig = EVERY_STEP) -> None:
    """Train up to the first checkpoint of a step, and be killed there."""
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, info: MemberInfo, tensors: dict, state: dict) -> None:
        save(self, info, tensors, state)
        if state["step"] == step:
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(StopError):
            go(corpus, folder, config)


def alike(folder: Path, whole: Path) -> bool:
    """Whether two trainings left the same bytes, and logs that differ in nothing but seconds."""
    logs = [[{**line, "seconds": 0} for line in log_lines(each)] for each in (folder, whole)]
    files = [[(each / file).read_bytes() for file in (BEST, LAST)] for each in (folder, whole)]
    return logs[0] == logs[1] and files[0] == files[1]
