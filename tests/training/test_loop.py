"""The loop: the same seed gives the same weights, whether it was stopped in between or not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.corpus import LABELS, VIDEOS
from vidfit.errors import ModelFileError, RecipeError
from vidfit.features.batches import Batches
from vidfit.features.example import infer_spec
from vidfit.features.shards import expand_shards
from vidfit.models.classifier import ClassifierConfig
from vidfit.models.heads import LogisticConfig
from vidfit.training.checkpoint import BEST, LAST, MemberInfo, read_member
from vidfit.training.loop import Progress, TrainingConfig, clip_each_, label_frequencies, learning_rate, train

CONFIG = TrainingConfig(
    steps=20, batch_size=16, sample_frames=5, learning_rate=0.02, validate_every=5, batch_norm_momentum=0.1
)
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
):
    shards = {name: expand_shards([corpus / name]) for name in ("train", "validation")}
    spec = infer_spec(shards["train"])
    info = MemberInfo(name="m", classifier=classifier, spec=spec, vocabulary=LABELS, step=0, gap_validation=-1)

    def show(now: Progress) -> None:
        if stop_at and now.step >= stop_at:
            raise StopError

    return train(
        info,
        config,
        Batches(shards["train"], spec, len(LABELS), config.batch_size, shuffle_buffer=40, seed=seed),
        Batches(shards["validation"], spec, len(LABELS), 16),
        folder,
        seed,
        show,
    )


def weights(folder: Path, file: str = LAST) -> dict[str, torch.Tensor]:
    return read_member(folder / file)[1]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    go(corpus, folder)
    return folder


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


def test_it_stops_early(corpus: Path, tmp_path: Path):
    # So small a rate changes no ranking: the first validation stays the best.
    config = CONFIG.model_copy(update={"learning_rate": 1e-12, "batch_norm_momentum": 1e-12, "patience": 2})
    best = go(corpus, tmp_path, config)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert best.step == 5
    assert json.loads(lines[-1])["step"] == 15


def test_divergence_is_said(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vidfit.training.loop.cross_entropy", lambda p, y: p.sum() * torch.nan)
    with pytest.raises(RecipeError, match=r"member m: the loss is nan at step 5; .* lower learning_rate"):
        go(corpus, tmp_path)


def test_the_learning_rate_is_a_staircase_of_examples():
    config = TrainingConfig(steps=9, batch_size=100, learning_rate=0.5, decay=0.8, decay_examples=250)
    assert [learning_rate(config, step) for step in range(6)] == pytest.approx([0.5, 0.5, 0.5, 0.4, 0.4, 0.32])


def test_every_gradient_is_clipped_by_itself():
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    for parameter, gradient in zip(parameters, ([3.0, 4.0], [0.3, 0.4], [0.0, 0.0]), strict=True):
        parameter.grad = torch.tensor(gradient)
    clip_each_(parameters, 1.0)
    found = [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]
    assert found == [pytest.approx([0.6, 0.8]), pytest.approx([0.3, 0.4]), [0.0, 0.0]]


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


@pytest.mark.parametrize("ends", [{}, {"steps": 3, "epochs": 3}])
def test_either_steps_or_epochs(ends: dict[str, int]):
    with pytest.raises(ValidationError, match="give either steps or epochs"):
        TrainingConfig.model_validate(ends)


def test_label_frequencies(corpus: Path):
    shards = expand_shards([corpus / "train"])
    batches = Batches(shards, infer_spec(shards), len(LABELS), 7)
    labelled = [batch.multi_hot(len(LABELS)) for batch in batches]
    expected = (torch.cat(labelled).sum(0) + 0.5) / (VIDEOS["train"] + 1)
    torch.testing.assert_close(label_frequencies(batches, len(LABELS)), expected)


def test_a_folder_of_another_model_is_refused(corpus: Path, whole: Path, tmp_path: Path):
    shutil.copy(whole / LAST, tmp_path / LAST)
    other = CLASSIFIER.model_copy(update={"head": LogisticConfig()})
    with pytest.raises(ModelFileError, match=r"last\.safetensors: was begun as another model"):
        go(corpus, tmp_path, classifier=other)


def test_skipped_records_are_counted_once_an_epoch(corpus: Path, tmp_path: Path):
    shards = expand_shards([corpus / "train"])
    spec = infer_spec(shards)
    damaged = tmp_path / "damaged.tfrecord"
    data = bytearray(shards[0].read_bytes())
    data[60] ^= 1
    damaged.write_bytes(data)
    info = MemberInfo(name="m", classifier=CLASSIFIER, spec=spec, vocabulary=LABELS, step=0, gap_validation=-1)
    seen: list[Progress] = []
    train(
        info,
        CONFIG.model_copy(update={"steps": None, "epochs": 2}),
        Batches([damaged], spec, len(LABELS), 16, skip_corrupt=True),
        Batches(shards, spec, len(LABELS), 16),
        tmp_path / "m",
        1,
        seen.append,
    )
    assert seen[-1].skipped == 1
