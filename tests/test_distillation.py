"""A run whose members are taught: by the teachers of a generation before, or by soft labels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.corpus import LABELS, MEAN_ALONE, write_recipe
from tests.folders import times
from vidfit import load, load_recipe, run
from vidfit.errors import DataError, OutputError, RecipeError
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.pipeline import Run
from vidfit.quantization.member import load_member
from vidfit.training.soft_labels import SoftLabels, label_shards

SHORT = ("training.steps=8", *MEAN_ALONE)


def teach(recipe_file: Path, folder: Path, distill: str, *more: str) -> dict:
    return run(load_recipe(recipe_file, (*SHORT, f"distill={distill}", *more)), folder)


def ids_in(shards: list[Path]) -> set[str]:
    spec = infer_spec(shards)
    return {id for batch in Batches(shards, spec, None, 50) for id in batch.ids}


@pytest.fixture(scope="module")
def taught(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two generations whose teacher is trained out of fold; read only."""
    folder = tmp_path_factory.mktemp("taught")
    recipe_file = write_recipe(folder, corpus)
    teach(recipe_file, folder / "run", "{generations: 2, teachers: [vlad], folds: 2, top_k: 3}")
    return folder / "run"


def test_generations_are_trained_one_from_the_other(taught: Path, corpus: Path):
    summary = json.loads((taught / "summary.json").read_text())
    trained = [(row["generation"], row["name"], row["fold"]) for row in summary["teachers"]]
    assert trained == [(0, "vlad", 0), (0, "vlad", 1), (1, "vlad", 0), (1, "vlad", 1)]
    assert all(0 < row["gap_validation"] <= 1 for row in summary["teachers"])
    assert [row["name"] for row in summary["members"]] == ["mean", "vlad", "lstm"]
    for generation in "01":
        soft = taught / "distillation" / generation / "soft-labels"
        assert ids_in_soft_labels(soft) == ids_in(expand_shards([corpus / "train"]))
    states = [
        load_member(taught / folder).info.gap_validation
        for folder in ("distillation/0/teachers/vlad/fold-0", "distillation/1/teachers/vlad/fold-0", "members/vlad")
    ]
    assert len(set(states)) == 3


def ids_in_soft_labels(folder: Path) -> set[str]:
    return {id for file in folder.glob("*.parquet") for id in pq.read_table(file)["id"].to_pylist()}


def test_a_video_is_labelled_by_the_teacher_that_has_not_seen_it(taught: Path, corpus: Path):
    shards = expand_shards([corpus / "train"])
    soft_labels = SoftLabels(taught / "distillation" / "0" / "soft-labels", LABELS)
    for fold, shard in enumerate(shards):
        batch = next(iter(Batches([shard], infer_spec(shards), None, 100)))
        found = soft_labels.of(batch.ids).numpy()
        for teacher in (0, 1):
            predicted = load(taught / "distillation/0/teachers/vlad" / f"fold-{teacher}").predict_batch(batch)
            kept = np.where(predicted >= np.sort(predicted, axis=1)[:, -3, None], predicted, 0)
            assert np.allclose(found, kept, rtol=2**-10, atol=1e-6) == (teacher == fold)


def test_a_taught_run_does_nothing_again(taught: Path, corpus: Path, tmp_path: Path):
    before = times(taught)
    teach(write_recipe(tmp_path, corpus), taught, "{generations: 2, teachers: [vlad], folds: 2, top_k: 3}")
    assert times(taught) == before


def test_each_member_may_teach_its_own_successor(recipe_file: Path, tmp_path: Path):
    summary = teach(recipe_file, tmp_path / "run", "{generations: 1, teachers: own, weight: 0.9}")
    assert [(row["name"], row["fold"]) for row in summary["teachers"]] == [
        ("mean", None),
        ("vlad", None),
        ("lstm", None),
    ]
    folders = sorted(path.name for path in (tmp_path / "run/distillation/0/soft-labels").iterdir())
    assert folders == ["lstm", "mean", "vlad"]


def test_changed_teachers_are_not_replaced_unasked(recipe_file: Path, tmp_path: Path):
    teach(recipe_file, tmp_path / "run", "{generations: 1, teachers: [mean]}")
    with pytest.raises(OutputError, match=r"distillation/0/teachers/mean: was trained with different settings"):
        teach(recipe_file, tmp_path / "run", "{generations: 1, teachers: [mean]}", "seed=3")
    # Other teachers: nothing of theirs stands in the way, but the members were taught by others.
    with pytest.raises(OutputError, match=r"members/mean: was trained with different settings"):
        teach(recipe_file, tmp_path / "run", "{generations: 1, teachers: [vlad]}")


def test_soft_labels_of_other_videos_never_reach_the_training(corpus: Path, recipe_file: Path, tmp_path: Path):
    """Soft labels for validation and eval videos that would show at once change no bit of what is trained."""

    def poisoned(which: str, folder: Path, probability: float) -> None:
        shards = expand_shards([corpus / which])
        teacher = {shards[0]: lambda batch: np.full((len(batch), 5), probability, np.float32)}
        folder.mkdir(exist_ok=True)
        label_shards(shards, folder, teacher, LABELS, 5, lambda shard: Batches([shard], infer_spec(shards), None, 50))

    members = ("mean", "vlad", "lstm")
    for name, sets in (("clean", ["train"]), ("leaky", ["train", "validation", "eval"])):
        for which in sets:
            poisoned(which, tmp_path / name, 0.2 if which == "train" else 1.0)
        recipe = load_recipe(recipe_file, (*SHORT, f"distill={{soft_labels: {tmp_path / name}}}"))
        student = Run(recipe, tmp_path / f"run-{name}")
        for member in members:
            student.train(member)
    assert ids_in_soft_labels(tmp_path / "leaky") > ids_in_soft_labels(tmp_path / "clean")
    for member in members:
        file = Path("members", member, "last.safetensors")
        assert (tmp_path / "run-leaky" / file).read_bytes() == (tmp_path / "run-clean" / file).read_bytes()


def test_teachers_may_be_removed_once_their_students_are_there(taught: Path, corpus: Path, tmp_path: Path):
    folder = Path(shutil.copytree(taught, tmp_path / "run"))
    for generation in "01":
        shutil.rmtree(folder / "distillation" / generation / "teachers")
    before = times(folder)
    distill = "{generations: 2, teachers: [vlad], folds: 2, top_k: 3}"
    summary = teach(write_recipe(tmp_path, corpus), folder, distill)
    assert times(folder) == before
    assert summary == json.loads((taught / "summary.json").read_text())


def test_a_teacher_of_the_same_settings_is_another_teacher(recipe_file: Path, tmp_path: Path):
    """Two members that differ in nothing but their names start from different weights."""
    twins = "members={one: &one {family: {type: mean}, head: {type: logistic}}, two: *one}"

    def train(teacher: str, overwrite: bool = False) -> float:
        settings = (*SHORT, f"distill={{generations: 1, teachers: [{teacher}]}}", twins, "pack.members=[one]")
        return Run(load_recipe(recipe_file, settings), tmp_path / "run", overwrite).train("one")["gap_validation"]

    by_one = train("one")
    with pytest.raises(OutputError, match=r"members/one: was trained with different settings"):
        train("two")
    assert train("two", overwrite=True) != by_one


def test_soft_labels_that_lack_a_shard_are_told_before_training(corpus: Path, recipe_file: Path, tmp_path: Path):
    shards = expand_shards([corpus / "train"])
    (tmp_path / "soft").mkdir()
    teacher = {shards[0]: lambda batch: np.full((len(batch), 5), 0.5, np.float32)}
    label_shards(
        shards[:1], tmp_path / "soft", teacher, LABELS, 5, lambda shard: Batches([shard], infer_spec(shards), None, 50)
    )
    with pytest.raises(DataError, match=r"soft: 48 of 96 training videos have no soft labels there, such as 0-1"):
        teach(recipe_file, tmp_path / "run", "{soft_labels: soft}")
    assert not (tmp_path / "run").exists()


def test_folds_need_as_many_shards(recipe_file: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"distill\.folds: .* of 2 training shards there are not 3 parts"):
        teach(recipe_file, tmp_path / "run", "{generations: 1, folds: 3}")
    assert not (tmp_path / "run").exists()


def test_missing_soft_labels_are_told_before_training(recipe_file: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"none: holds no soft labels"):
        teach(recipe_file, tmp_path / "run", "{soft_labels: none}")
    assert not (tmp_path / "run").exists()
