"""Training on rated segments, from a model of whole videos, by the command that you type."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vidfit as library
from tests.conftest import Call
from tests.inference.test_evaluate_timeline import LABELS, write_table
from vidfit.training.checkpoint import read_member
from vidfit.training.losses import EPSILON, cross_entropy

RECIPE = """
data: {train: train.tfrecord, validation: validation.tfrecord, eval: eval.tfrecord, vocabulary: vocabulary.csv}
training: {steps: 40, batch_size: 16, sampling: none, learning_rate: 0.05, validate_every: 20}
members:
  mean: {family: {type: mean}, head: {type: logistic, l2: 0}}
pack: {budget: 100kB, members: [mean]}
"""


def videos(split: str, count: int, seed: int, rated: bool = True) -> tuple[list[library.Video], list[tuple]]:
    """Two labels in turn, 5 seconds each, of which the ratings know the first and the second, never the third."""
    random = np.random.default_rng(seed)
    made, rows = [], []
    for number in range(count):
        first = int(random.integers(2))
        frames = random.normal(128, 15, size=(10, 6))
        segments = []
        for part, label in enumerate((first, 1 - first)):
            # The context of label 0 looks like label 1: only parts tell.
            frames[5 * part : 5 * part + 5, 2 * label : 2 * label + 2] += 30
            segments += [(5 * part, label, 1), (5 * part, 1 - label, 0)]
            rows.append((f"{split}{number}", LABELS[label], 5 * part, 5 * part + 5))
        starts, labels, scores = (np.array(column) for column in zip(*segments, strict=True))
        own = library.RatedSegments(starts, starts + 5, labels, scores.astype(np.float32))
        video = library.Video(f"{split}{number}", {"rgb": frames.clip(0, 255).astype(np.uint8)}, np.array([0, 1]))
        if rated:
            video.segments = own
        made.append(video)
    return made, rows


@pytest.fixture
def place(tmp_path: Path, vidfit: Call) -> Path:
    """Shards, a table of their intervals, and a member that learned from whole videos."""
    rows = []
    for seed, (split, count) in enumerate({"train": 64, "validation": 24, "eval": 40}.items()):
        made, of_split = videos(split, count, seed)
        library.write_shard(tmp_path / f"{split}.tfrecord", made)
        rows += of_split
    write_table(tmp_path / "segments.csv", rows)
    (tmp_path / "vocabulary.csv").write_text(
        "\n".join(["label_id,label_name", *(f'{index},"{name}"' for index, name in enumerate(LABELS))]) + "\n"
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    code, _, err = vidfit("train", tmp_path / "recipe.yaml", "-o", tmp_path / "whole")
    assert code == 0, err
    return tmp_path


def map_at_k(place: Path, run: str) -> float:
    member = place / run / "members" / "mean"
    return library.evaluate_segments(member, place / "eval.tfrecord", window=5, hop=5)["map_at_k"]


SEGMENTS = ("--set", "members.mean.training.start=whole/members/mean", "--set", "training.segments.context=0")


def test_it_goes_on_from_whole_videos_and_learns_parts(place: Path, vidfit: Call):
    code, _, err = vidfit("train", place / "recipe.yaml", "-o", place / "parts", *SEGMENTS)
    assert code == 0, err
    before, after = map_at_k(place, "whole"), map_at_k(place, "parts")
    assert before < 0.8
    assert after > 0.95
    log = [json.loads(line) for line in (place / "parts/members/mean/log.jsonl").read_text().splitlines()]
    assert log[-1]["videos"] == 48  # rated segments of the validation videos
    assert log[-1]["gap"] > 0.9


@pytest.mark.parametrize(
    ("family", "rate"),
    [
        ("{type: mean}", 0.05),
        ("{type: gru, cells: 6}", 0.01),
        ("{type: netvlad, clusters: 4, hidden: 8, relu: true}", 0.05),
    ],
)
def test_whole_videos_teach_their_parts(place: Path, vidfit: Call, family: str, rate: float):
    encoded = RECIPE.replace("mean: {", "mean: {encoder: {hidden: 12, cells: 4}, ").replace("{type: mean}", family)
    (place / "recipe.yaml").write_text(encoded)
    whole = [
        *("--set", "training.segments.context=video", "--set", "training.batch_norm_momentum=0.1"),
        *("--set", f"training.learning_rate={rate}"),
    ]
    code, _, err = vidfit("train", place / "recipe.yaml", "-o", place / "parts", *whole)
    assert code == 0, err
    assert map_at_k(place, "parts") > 0.95
    log = [json.loads(line) for line in (place / "parts/members/mean/log.jsonl").read_text().splitlines()]
    assert log[-1]["videos"] == 24
    code, _, err = vidfit("train", place / "recipe.yaml", "-o", place / "no", *whole, "--set", "training.accumulate=2")
    assert code == 2
    assert "segments.context: video needs sampling: none and accumulate: 1" in err


def test_labels_that_nobody_rated_keep_their_weights(place: Path, vidfit: Call):
    assert vidfit("train", place / "recipe.yaml", "-o", place / "parts", *SEGMENTS)[0] == 0
    (_, before, _), (_, after, _) = (read_member(place / run / "members" / "mean") for run in ("whole", "parts"))
    changed = {
        name: (before[name] != after[name]).reshape(-1, 3).any(0) for name in before if before[name].shape[-1:] == (3,)
    }
    assert changed
    for name, columns in changed.items():
        assert columns.tolist() == [True, True, False], name


def test_intervals_of_ones_own_serve_as_well(place: Path, vidfit: Call):
    for seed, (split, count) in enumerate({"train": 64, "validation": 24}.items()):
        library.write_shard(place / f"{split}.tfrecord", videos(split, count, seed, rated=False)[0])
    table = ("--set", "training.segments.table=segments.csv")
    code, _, err = vidfit("train", place / "recipe.yaml", "-o", place / "parts", *SEGMENTS, *table)
    assert code == 0, err
    assert map_at_k(place, "parts") > 0.95


def test_a_second_call_does_not_train_again_unless_the_start_changed(place: Path, vidfit: Call):
    asked = ("train", place / "recipe.yaml", "-o", place / "parts", *SEGMENTS)
    assert vidfit(*asked)[0] == 0
    best = place / "parts/members/mean/best.safetensors"
    state = best.stat().st_mtime_ns
    assert vidfit(*asked)[0] == 0
    assert best.stat().st_mtime_ns == state
    assert vidfit("train", place / "recipe.yaml", "-o", place / "whole", "--overwrite", "--set", "seed=5")[0] == 0
    code, _, err = vidfit(*asked)
    assert code == 2
    assert "was trained with different settings or shards" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["members.mean.training.start=gone"], "gone: no such member"),
        (
            ["members.mean.training.start=whole/members/mean", "members.mean.head.type=moe"],
            "other weights than mean",
        ),
        (["training.segments.context=-1"], "training.segments.context: give a number of at least 0 or 'video', not -1"),
        (["training.segments.table=gone.csv"], "gone.csv: does not exist"),
        (["training.segments={}", "training.mixup=0.2", "training.sampling=sequence"], "remove mixup"),
        (["training.segments={}", "distill.generations=1"], "training.segments learns from parts; remove one"),
        (["training.segments={}", "data.validation=unrated.tfrecord"], "hold no rated segment"),
    ],
)
def test_mistakes_are_one_line(place: Path, vidfit: Call, options: list[str], message: str):
    library.write_shard(place / "unrated.tfrecord", videos("unrated", 20, 9, rated=False)[0])
    given = [part for option in options for part in ("--set", option)]
    code, _, err = vidfit("train", place / "recipe.yaml", "-o", place / "parts", *given)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (place / "parts").exists()


def test_a_label_that_weighs_0_has_no_loss():
    generator = torch.Generator().manual_seed(0)
    probabilities_BC = torch.rand(3, 4, generator=generator)
    labels_BC = (torch.rand(3, 4, generator=generator) > 0.5).float()
    weights_BC = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).float()
    expected = 0.0
    columns = (it.flatten().tolist() for it in (probabilities_BC, labels_BC, weights_BC))
    for probability, label, weight in zip(*columns, strict=True):
        if weight:
            expected -= np.log((probability if label else 1 - probability) + EPSILON) / 3
    assert cross_entropy(probabilities_BC, labels_BC, weights_BC=weights_BC).item() == pytest.approx(expected, rel=1e-6)
