"""The loop: the same seed gives the same weights, whether it was stopped in between or not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.corpus import LABELS, VIDEOS
from tests.training.toy import CLASSIFIER, CONFIG, StopError, go, label, log_lines, same, weights
from vidfit.errors import DataError, ModelFileError
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.kernels import factored_gradients
from vidfit.models.heads import LogisticConfig
from vidfit.quantization.member import load_member
from vidfit.training import trainer
from vidfit.training.averaging import AveragingConfig
from vidfit.training.checkpoint import BEST, MemberInfo, read_member
from vidfit.training.checkpoint_manager import LAST
from vidfit.training.distillation import SoftTargets
from vidfit.training.losses import cross_entropy
from vidfit.training.progress_meter import Progress
from vidfit.training.soft_labels import SoftLabels
from vidfit.training.trainer import train_member
from vidfit.training.validation import predict


def test_it_learns_and_keeps_the_best(whole: Path):
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert lines[-1]["gap"] > lines[0]["gap"]
    info = read_member(whole / BEST)[0]
    assert info.gap_validation == max(line["gap"] for line in lines)
    assert info.step == max(lines, key=lambda line: line["gap"])["step"]


def test_the_same_seed_gives_the_same_weights(corpus: Path, whole: Path, tmp_path: Path):
    go(corpus, tmp_path)
    assert same(weights(tmp_path), weights(whole))


def test_another_seed_gives_other_weights(corpus: Path, whole: Path, tmp_path: Path):
    go(corpus, tmp_path, seed=2)
    assert not same(weights(tmp_path), weights(whole))


@pytest.mark.parametrize("stop_at", [3, 5, 10])
def test_stopped_and_gone_on_ends_as_if_never_stopped(corpus: Path, whole: Path, tmp_path: Path, stop_at: int):
    with pytest.raises(StopError):
        go(corpus, tmp_path, stop_at=stop_at)
    go(corpus, tmp_path)
    assert same(weights(tmp_path), weights(whole))
    assert same(weights(tmp_path, BEST), weights(whole, BEST))
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="gradients are thin on a CPU alone")
def test_thin_gradients_go_on_after_a_stop(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    norms, norm = [], factored_gradients.FactoredGradient.norm
    monkeypatch.setattr(factored_gradients, "SMALLEST", 1)
    monkeypatch.setattr(
        factored_gradients.FactoredGradient, "norm", lambda *arguments: norms.append(norm(*arguments)) or norms[-1]
    )
    config = CONFIG.model_copy(update={"batch_size": 2})
    go(corpus, tmp_path / "whole", config)
    with pytest.raises(StopError):
        go(corpus, tmp_path / "stopped", config, stop_at=7)
    go(corpus, tmp_path / "stopped", config)
    assert len(norms) > 40
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


def test_it_stops_early(corpus: Path, tmp_path: Path):
    # So small a rate changes no ranking: the first validation stays the best.
    config = CONFIG.model_copy(update={"learning_rate": 1e-12, "batch_norm_momentum": 1e-12, "patience": 2})
    best = go(corpus, tmp_path, config)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert best.step == 5
    assert json.loads(lines[-1])["step"] == 15


def test_validation_counts_every_video(whole: Path):
    assert json.loads((whole / "log.jsonl").read_text().splitlines()[0])["videos"] == VIDEOS["validation"]


def test_epochs_end_the_training_with_a_validation(corpus: Path, tmp_path: Path):
    config = CONFIG.model_copy(update={"steps": None, "epochs": 3, "validate_every": 4})
    go(corpus, tmp_path, config)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    # 96 videos are 6 batches of 16.
    assert steps == [4, 8, 12, 16, 18]
    before = weights(tmp_path)
    go(corpus, tmp_path, config)
    assert same(weights(tmp_path), before)


def test_epochs_go_on_after_a_stop(corpus: Path, tmp_path: Path):
    config = CONFIG.model_copy(update={"steps": None, "epochs": 3, "validate_every": 4})
    go(corpus, tmp_path / "whole", config)
    with pytest.raises(StopError):
        go(corpus, tmp_path / "parts", config, stop_at=13)
    go(corpus, tmp_path / "parts", config)
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_a_folder_of_another_model_is_refused(corpus: Path, whole: Path, tmp_path: Path):
    shutil.copy(whole / LAST, tmp_path / LAST)
    other = CLASSIFIER.model_copy(update={"head": LogisticConfig()})
    with pytest.raises(ModelFileError, match=r"last\.safetensors: belongs to another model"):
        go(corpus, tmp_path, classifier=other)


def test_skipped_records_are_counted_once_an_epoch(corpus: Path, tmp_path: Path):
    shards = expand_shards([corpus / "train"])
    spec = infer_spec(shards)
    damaged = tmp_path / "damaged.tfrecord"
    data = bytearray(shards[0].read_bytes())
    data[60] ^= 1
    damaged.write_bytes(data)
    info = MemberInfo(name="m", classifier=CLASSIFIER, spec=spec, vocabulary=LABELS, step=0, gap_validation=None)
    seen: list[Progress] = []
    train_member(
        info,
        CONFIG.model_copy(update={"steps": None, "epochs": 2}),
        Batches([damaged], spec, len(LABELS), 16, skip_corrupt=True),
        Batches(shards, spec, len(LABELS), 16),
        tmp_path / "m",
        1,
        seen.append,
    )
    assert seen[-1].skipped.records == 1


AVERAGING = CONFIG.model_copy(update={"averaging": AveragingConfig(steps=10, learning_rate=0.005, ema_decay=0.75)})


def test_averaging_begins_from_the_best_and_keeps_the_better(corpus: Path, whole: Path, tmp_path: Path):
    best = go(corpus, tmp_path, AVERAGING)
    lines = log_lines(tmp_path)
    assert [(line["step"], line["averaged"]) for line in lines] == [
        *((step, False) for step in (5, 10, 15, 20)),
        *((step, True) for step in (25, 30)),
    ]
    assert [line["gap"] for line in lines[:4]] == [line["gap"] for line in log_lines(whole)]
    assert [line["lr"] for line in lines[4:]] == [0.005, 0.005]
    assert best.gap_validation == max(line["gap"] for line in lines)
    state = weights(tmp_path)
    # The average trails behind the weights that it is made of.
    name = "head.classifier.expert_weights"
    assert not torch.equal(state[f"average.module.{name}"], state[name])


def test_an_average_that_is_worse_is_kept_only_if_always(corpus: Path, tmp_path: Path):
    """A learning rate that ruins the model: its average is worse than what it began from."""
    for keep in ("better", "always"):
        averaging = AveragingConfig(steps=5, learning_rate=10, ema_decay=0.5, keep=keep)  # type: ignore[arg-type]
        best = go(corpus, tmp_path / keep, CONFIG.model_copy(update={"averaging": averaging}))
        lines = log_lines(tmp_path / keep)
        assert lines[-1]["gap"] < lines[-2]["gap"]
        assert best.step == (25 if keep == "always" else max(lines, key=lambda line: line["gap"])["step"])
        kept = read_member(tmp_path / keep / BEST)[1]
        average = weights(tmp_path / keep)["average.module.head.classifier.expert_weights"]
        assert torch.equal(kept["head.classifier.expert_weights"], average) == (keep == "always")


def test_equal_averaging_is_the_mean_of_the_checkpoints(corpus: Path, whole: Path, tmp_path: Path):
    averaging = AveragingConfig(method="equal", steps=10, learning_rate=0.005)
    config = CONFIG.model_copy(update={"averaging": averaging})
    name = "head.classifier.expert_weights"
    begun_from = weights(whole, BEST)[name]
    with pytest.raises(StopError):
        go(corpus, tmp_path, config, stop_at=25)
    first = weights(tmp_path)[name]
    go(corpus, tmp_path, config)
    checkpoints = torch.stack([begun_from, first, weights(tmp_path)[name]])
    torch.testing.assert_close(weights(tmp_path)[f"average.module.{name}"], checkpoints.mean(0))


def test_averaging_begins_from_the_best_and_not_from_the_last(corpus: Path, tmp_path: Path, monkeypatch):
    gaps = iter([0.1, 0.5, 0.3, 0.2, 0.4])
    monkeypatch.setattr(trainer, "validate", lambda *_: {"gap": next(gaps)})
    averaging = AveragingConfig(steps=5, learning_rate=1e-12)  # nothing moves
    assert go(corpus, tmp_path, CONFIG.model_copy(update={"averaging": averaging})).step == 10
    name = "head.classifier.expert_weights"
    torch.testing.assert_close(weights(tmp_path)[name], weights(tmp_path, BEST)[name])


@pytest.mark.parametrize("stop_at", [20, 25, 30])
def test_averaging_stopped_and_gone_on_ends_as_if_never_stopped(corpus: Path, tmp_path: Path, stop_at: int):
    go(corpus, tmp_path / "whole", AVERAGING)
    with pytest.raises(StopError):
        go(corpus, tmp_path / "parts", AVERAGING, stop_at=stop_at)
    go(corpus, tmp_path / "parts", AVERAGING)
    for file in (BEST, LAST):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert [line["step"] for line in log_lines(tmp_path / "parts")] == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize(
    "change",
    [{"sampling": "sequence"}, {"sampling": "none"}, {"mixup": 0.4}],
    ids=["sequence", "none", "mixup"],
)
def test_other_ways_to_sample_learn_too(corpus: Path, whole: Path, tmp_path: Path, change: dict):
    go(corpus, tmp_path / "one", CONFIG.model_copy(update=change))
    go(corpus, tmp_path / "two", CONFIG.model_copy(update=change))
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not same(weights(tmp_path / "one"), weights(whole))
    lines = log_lines(tmp_path / "one")
    assert lines[-1]["gap"] > lines[0]["gap"]


def test_mixup_mixes_the_labels_too(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def watching(probabilities_BC: torch.Tensor, targets_BC: torch.Tensor, videos: int, weights: None) -> torch.Tensor:
        seen.append(targets_BC)
        return cross_entropy(probabilities_BC, targets_BC, videos, weights)

    monkeypatch.setattr("vidfit.training.train_step.cross_entropy", watching)
    go(corpus, tmp_path, CONFIG.model_copy(update={"mixup": 0.4}))
    targets = torch.cat(seen)
    assert ((targets > 0.01) & (targets < 0.99)).float().mean() > 0.1
    assert targets.max() <= 1
    assert targets.min() >= 0


def test_a_student_learns_what_its_teacher_says(corpus: Path, tmp_path: Path):
    soft_labels = label(corpus, tmp_path / "soft", 0.5)
    go(corpus, tmp_path / "student", soft_targets=SoftTargets(soft_labels, 1.0))
    # With nothing but the teacher to learn from, its probabilities come out and the labels do not.
    gaps = [line["gap"] for line in log_lines(tmp_path / "student")]
    model = load_member(tmp_path / "student" / LAST).classifier()
    batch = next(iter(Batches(expand_shards([corpus / "train"]), model.spec, len(LABELS), 96)))
    assert np.abs(predict(model, batch) - 0.5).mean() < 0.1
    assert max(gaps) < 0.9


def test_a_student_is_resumed_with_its_teacher(corpus: Path, tmp_path: Path):
    teacher = SoftTargets(label(corpus, tmp_path / "soft", 0.25), 0.5)
    go(corpus, tmp_path / "whole", soft_targets=teacher)
    with pytest.raises(StopError):
        go(corpus, tmp_path / "parts", stop_at=12, soft_targets=teacher)
    go(corpus, tmp_path / "parts", soft_targets=teacher)
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_videos_without_soft_labels_are_counted(corpus: Path, tmp_path: Path):
    soft_labels = label(corpus, tmp_path / "soft", 0.5)
    (tmp_path / "soft" / "train1.tfrecord.parquet").unlink()
    soft_labels = SoftLabels(tmp_path / "soft", LABELS)
    with pytest.raises(DataError, match=r"soft: 48 of 96 training videos have no soft labels there, such as 0-"):
        go(corpus, tmp_path / "student", soft_targets=SoftTargets(soft_labels, 0.5))
