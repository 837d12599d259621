"""A run: what it leaves, what a second call does, and what it refuses."""

import json
import shutil
from pathlib import Path

import onnxruntime
import pytest

from tests.corpus import write_recipe
from vidfit import load, load_recipe, run
from vidfit.errors import BudgetError, DataError, OutputError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batches import Batches
from vidfit.features.shards import expand_shards


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def recipe_file(corpus: Path, tmp_path: Path) -> Path:
    return write_recipe(tmp_path, corpus)


def times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for pattern in ("*.safetensors", "*.onnx")
        for path in folder.rglob(pattern)
    }


def test_the_summary_says_what_was_found(finished: Path, corpus: Path):
    summary = json.loads((finished / "summary.json").read_text())
    members = {row["name"]: row for row in summary["members"]}
    assert list(members) == ["mean", "vlad", "lstm"]
    for row in members.values():
        assert {"family", "parameters", "gap", "gap_quantized", "bytes_float32", "bytes_quantized"} <= row.keys()
    assert members["mean"]["parameters"] == 32 * 5 + 5
    assert members["vlad"]["bytes_quantized"] < members["vlad"]["bytes_float32"] / 2
    packed = summary["packed"]
    assert packed["bytes"] == (finished / packed["path"]).stat().st_size <= packed["budget"] == 300_000
    assert [(row["name"], row["bits"]) for row in packed["members"]] == [("vlad", 8), ("lstm", 8)]
    assert packed["members"][0]["weight"] == pytest.approx(2 / 3)
    assert {"map", "hit_at_1", "perr"} <= packed.keys()
    model = load(finished / "model.onnx")
    batches = Batches(expand_shards([corpus / "eval"]), model.spec, 5, 7)
    assert packed["gap"] == pytest.approx(evaluate(model.predict_batch, batches, 5)["gap"], abs=1e-6)


def test_a_second_call_does_nothing_again(copy: Path, recipe_file: Path):
    before = times(copy)
    summary = json.loads((copy / "summary.json").read_text())
    assert run(load_recipe(recipe_file), copy) == summary
    assert times(copy) == before


def test_a_new_budget_packs_again_and_trains_nothing(copy: Path, recipe_file: Path):
    before = times(copy)
    changed = load_recipe(recipe_file, ("pack.members=[lstm]", "pack.budget=250kB"))
    packed = run(changed, copy)["packed"]
    assert [row["name"] for row in packed["members"]] == ["lstm"]
    after = times(copy)
    assert {name for name in after if after[name] != before[name]} == {"model.onnx"}


def test_a_lost_file_is_made_again(copy: Path, recipe_file: Path):
    old = json.loads((copy / "summary.json").read_text())
    (copy / "members" / "vlad" / "quantized.safetensors").unlink()
    (copy / "model.onnx").unlink()
    assert run(load_recipe(recipe_file), copy) == old
    onnxruntime.InferenceSession(copy / "model.onnx")


def test_other_settings_do_not_overwrite_a_trained_member(copy: Path, recipe_file: Path):
    changed = load_recipe(recipe_file, ("members.mean.training.learning_rate=0.01",))
    before = times(copy)
    with pytest.raises(OutputError, match=r"members/mean: was trained with other settings .*--overwrite"):
        run(changed, copy)
    assert times(copy) == before
    run(changed, copy, overwrite=True)
    after = times(copy)
    assert {name.split("/")[1] for name in after if after[name] != before.get(name) and "/" in name} == {"mean"}


def test_a_budget_that_nothing_fits_leaves_the_old_file(copy: Path, recipe_file: Path):
    before = (copy / "model.onnx").read_bytes()
    with pytest.raises(BudgetError, match="over the budget of 1,000"):
        run(load_recipe(recipe_file, ("pack.budget=1kB",)), copy)
    assert (copy / "model.onnx").read_bytes() == before


def test_training_on_eval_shards_is_refused(corpus: Path, recipe_file: Path, tmp_path: Path):
    recipe = load_recipe(recipe_file, (f"data.train=[{corpus}/train, {corpus}/eval/eval0.tfrecord]",))
    with pytest.raises(DataError, match=r"eval0\.tfrecord: is in both data\.train and data\.eval"):
        run(recipe, tmp_path / "run")
