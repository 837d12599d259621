"""A run: what it leaves, what a second call does, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.corpus import LABELS, MEAN_ALONE, VIDEOS
from tests.folders import times
from vidfit import load, load_recipe, run
from vidfit.errors import BudgetError, DataError, OutputError, RecipeError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.example import to_sequence_example
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, read_videos
from vidfit.features.spec import Video
from vidfit.features.tfrecord import write_records
from vidfit.files import write_table
from vidfit.pipeline import Run
from vidfit.search.runs import pack
from vidfit.training.checkpoint import read_member


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_summary_says_what_was_found(finished: Path, corpus: Path):
    summary = json.loads((finished / "summary.json").read_text())
    members = {row["name"]: row for row in summary["members"]}
    assert list(members) == ["mean", "vlad", "lstm"]
    for row in members.values():
        assert {"family", "parameters", "gap", "gap_quantized", "bytes_float32", "bytes_quantized"} <= row.keys()
    assert members["mean"]["parameters"] == 32 * 5 + 5
    assert members["mean"]["bytes_float32"] == 4 * (32 * 5 + 5)
    assert members["vlad"]["bytes_quantized"] < members["vlad"]["bytes_float32"] / 2
    packed = summary["packed"]
    assert packed["bytes"] == (finished / packed["path"]).stat().st_size <= packed["budget"] == 330_000
    assert [(row["name"], row["bits"]) for row in packed["members"]] == [("vlad", 8), ("lstm", 8)]
    assert packed["members"][0]["weight"] == pytest.approx(2 / 3)
    assert {"map", "hit_at_1", "perr", "micro_f1", "macro_f1"} <= packed.keys()
    assert "accuracy" not in packed  # a video may have several labels
    model = load(finished / "model.onnx")
    batches = Batches(expand_shards([corpus / "eval"]), model.spec, 5, 7)
    assert packed["gap"] == pytest.approx(evaluate(model.predict_batch, batches, 5)["gap"], abs=1e-6)


def test_labels_are_those_of_the_packed_file(finished: Path):
    details = json.loads((finished / "labels.json").read_text())
    packed = json.loads((finished / "summary.json").read_text())["packed"]
    assert [row["name"] for row in details["labels"]] == list(LABELS)
    precisions = [row["average_precision"] for row in details["labels"] if row["positives"]]
    assert np.mean(precisions) == pytest.approx(packed["map"])
    assert sum(row["count"] for row in details["reliability"]) == VIDEOS["eval"] * len(LABELS)
    assert sum(row["hits"] for row in details["reliability"]) == sum(row["positives"] for row in details["labels"])
    assert 0 < details["ece"] < 1
    thresholds = load(finished / "model.onnx").thresholds
    assert thresholds is not None
    assert [row["threshold"] for row in details["labels"]] == thresholds.tolist()
    assert any(row["recall"] for row in details["labels"])


def test_labels_of_an_older_file_do_not_outlive_it(copy: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch):
    (copy / "labels.json").unlink()
    run(load_recipe(recipe_file), copy)
    assert (copy / "labels.json").exists()

    def fails(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vidfit.pipeline.measure_labels", fails)
    with pytest.raises(KeyboardInterrupt):
        run(load_recipe(recipe_file, MEAN_ALONE), copy)
    assert not (copy / "labels.json").exists()


def test_a_failed_report_loses_no_run(
    copy: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(_):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr("vidfit.pipeline.write_report", fails)
    summary = run(load_recipe(recipe_file), copy)
    assert json.loads((copy / "summary.json").read_text()) == summary
    assert not (copy / "report.html").exists()
    assert f"`vidfit report {copy}` tries again" in caplog.text


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


def test_named_members_too_large_in_8_bits_take_narrower_widths(copy: Path, recipe_file: Path):
    assert (copy / "members" / "lstm" / "quantized.safetensors").stat().st_size > 200_000
    named = ("pack.members={lstm: 2, mean: 1}", "pack.budget=200kB")
    packed = run(load_recipe(recipe_file, named), copy)["packed"]
    assert packed["bytes"] <= 200_000
    assert {row["name"]: row["weight"] for row in packed["members"]} == pytest.approx({"lstm": 2 / 3, "mean": 1 / 3})
    assert min(row["bits"] for row in packed["members"]) < 8
    assert packed["gap_confirmation"] > 0


def test_a_lost_file_is_made_again(copy: Path, recipe_file: Path):
    recipe = load_recipe(recipe_file, MEAN_ALONE)
    old = run(recipe, copy)
    (copy / "members" / "vlad" / "quantized.safetensors").unlink()
    (copy / "model.onnx").unlink()
    assert run(recipe, copy) == old
    assert (copy / "members" / "vlad" / "quantized.safetensors").exists()
    onnxruntime.InferenceSession(copy / "model.onnx")


def test_another_precision_chooses_thresholds_anew_and_trains_nothing(copy: Path, recipe_file: Path):
    before, old = times(copy), load(copy / "model.onnx").thresholds
    run(load_recipe(recipe_file, ("pack.precision=0.95",)), copy)
    after, new = times(copy), load(copy / "model.onnx").thresholds
    assert {name for name in after if after[name] != before[name]} == {"model.onnx"}
    assert old is not None
    assert new is not None
    assert (new != old).any()


def test_the_same_run_packs_the_same_file(copy: Path, recipe_file: Path):
    before = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").unlink()
    run(load_recipe(recipe_file), copy)
    assert (copy / "model.onnx").read_bytes() == before


def test_a_default_that_is_written_out_changes_nothing(copy: Path, recipe_file: Path):
    """As a key that is added one day, with a default, must not either."""
    before = times(copy)
    run(load_recipe(recipe_file, ("members.vlad.family.dropout=0.0", "training.workers=0")), copy)
    assert times(copy) == before


@pytest.mark.parametrize("change", ["family={type: gru, cells: 96}", "head={type: moe}"])
def test_another_type_of_the_same_keys_is_another_member(copy: Path, recipe_file: Path, change: str):
    with pytest.raises(OutputError, match="members/lstm: was trained with different settings"):
        run(load_recipe(recipe_file, (f"members.lstm.{change}",)), copy)


def test_a_refused_run_leaves_the_folder_as_it_was(copy: Path, recipe_file: Path):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    changed = ("members.lstm.training.learning_rate=0.01", "members.mean.training.steps=8")
    with pytest.raises(OutputError, match="different settings"):
        run(load_recipe(recipe_file, changed), copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_member_without_a_checkpoint_may_be_begun_anew(copy: Path, recipe_file: Path):
    for file in ("best", "last"):
        (copy / "members" / "mean" / f"{file}.safetensors").unlink()
    summary = run(load_recipe(recipe_file, ("members.mean.training.steps=8",)), copy)
    assert summary["members"][0]["step"] == 8


@pytest.mark.parametrize("text", ["{", "[]", '{"pack": 3}', "\xff"])
def test_an_unreadable_record_of_stages(copy: Path, recipe_file: Path, text: str):
    stages = copy / "stages.json"
    stages.write_bytes(text.encode("latin-1"))
    with pytest.raises(OutputError, match=r"stages\.json: cannot be read .* remove this file .* --overwrite"):
        run(load_recipe(recipe_file), copy)
    stages.unlink()
    with pytest.raises(OutputError, match=r"was trained with different settings .*--overwrite"):
        run(load_recipe(recipe_file), copy)


def test_options_the_shards_refuse_are_told_before_training(recipe_file: Path, tmp_path: Path):
    recipe = load_recipe(recipe_file, ("members.vlad.family.clusters={rgb: 4, speech: 2}",))
    with pytest.raises(RecipeError, match=r"^members\.vlad\.family\.clusters: .*'speech'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can")
@pytest.mark.parametrize("recurrent", ["family={type: lstm, cells: 8}", "encoder={hidden: 8, cells: 8}"])
def test_bfloat16_is_not_for_recurrent_members_on_a_cpu(recipe_file: Path, tmp_path: Path, recurrent: str):
    overrides = (f"members.mean.{recurrent}", "members.mean.training.precision=bfloat16")
    message = r"^members\.mean\.training\.precision: lstm, gru and encoder\.cells have no bfloat16 on a CPU"
    with pytest.raises(RecipeError, match=message):
        run(load_recipe(recipe_file, overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("which", ["validation", "eval"])
def test_unlabelled_shards_are_told_before_any_training(corpus: Path, recipe_file: Path, tmp_path: Path, which: str):
    videos = [video for video in read_videos(corpus / which / f"{which}0.tfrecord") if isinstance(video, Video)]
    unlabelled = [Video(video.id, video.frames, np.empty(0, np.int64)) for video in videos]
    write_records(tmp_path / "u.tfrecord", map(to_sequence_example, unlabelled))
    with pytest.raises(DataError, match=rf"data\.{which}: none of its videos has a label"):
        run(load_recipe(recipe_file, (f"data.{which}={tmp_path}/u.tfrecord",)), tmp_path / "run")
    write_records(tmp_path / "u.tfrecord", map(to_sequence_example, [*unlabelled, videos[0]]))
    Run(load_recipe(recipe_file, (f"data.{which}={tmp_path}/u.tfrecord",)), tmp_path / "run")


def test_the_largest_seed_trains(recipe_file: Path, tmp_path: Path):
    largest = ("seed=2147483647", "training.steps=1")
    assert Run(load_recipe(recipe_file, largest), tmp_path / "run").train("mean")["step"] == 1


def test_a_run_folder_that_is_a_file(recipe_file: Path, tmp_path: Path):
    (tmp_path / "run").write_text("kept")
    with pytest.raises(OutputError, match="run: is a file, not a folder"):
        run(load_recipe(recipe_file), tmp_path / "run")


def test_other_settings_do_not_overwrite_a_trained_member(copy: Path, recipe_file: Path):
    changed = load_recipe(recipe_file, ("members.mean.training.learning_rate=0.01",))
    before = times(copy)
    with pytest.raises(OutputError, match=r"members/mean: was trained with different settings .*--overwrite"):
        run(changed, copy)
    assert times(copy) == before
    run(changed, copy, overwrite=True)
    after = times(copy)
    assert {name.split("/")[1] for name in after if after[name] != before.get(name) and "/" in name} == {"mean"}


def test_a_budget_that_cannot_hold_leaves_everything(copy: Path, recipe_file: Path):
    before = times(copy)
    with pytest.raises(BudgetError, match=r"pack\.budget: the packed members take"):
        run(load_recipe(recipe_file, ("pack.budget=1kB",)), copy)
    assert times(copy) == before


def test_no_file_above_the_budget_is_left(copy: Path, recipe_file: Path):
    with pytest.raises(BudgetError, match="no ensemble fits 100,000 bytes"):
        run(load_recipe(recipe_file, ("pack.members=[lstm]", "pack.budget=100kB")), copy)
    assert not (copy / "model.onnx").exists()
    assert not (copy / "summary.json").exists()


def test_training_on_eval_shards_is_refused(corpus: Path, recipe_file: Path, tmp_path: Path):
    recipe = load_recipe(recipe_file, (f"data.train=[{corpus}/train, {corpus}/eval/eval0.tfrecord]",))
    with pytest.raises(DataError, match=r"eval0\.tfrecord: is in both data\.train and data\.eval"):
        run(recipe, tmp_path / "run")


def test_a_copy_of_an_eval_shard_is_no_training_shard(corpus: Path, recipe_file: Path, tmp_path: Path):
    copy = shutil.copy(corpus / "eval" / "eval0.tfrecord", tmp_path / "other.tfrecord")
    recipe = load_recipe(recipe_file, (f"data.train=[{corpus}/train, {copy}]",))
    with pytest.raises(DataError, match=r"eval0\.tfrecord: data\.eval has it, and data\.train .* as .*other\.tfrecord"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_budget_that_cannot_hold_is_refused_before_training(recipe_file: Path, tmp_path: Path):
    with pytest.raises(BudgetError, match=r"pack\.budget: the packed members take .* at least \(vlad "):
        run(load_recipe(recipe_file, ("pack.budget=20kB",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_balanced_reading_trains_another_model(finished: Path, recipe_file: Path, tmp_path: Path):
    Run(load_recipe(recipe_file, ("training.balance=1",)), tmp_path / "run").train("mean")
    folders = (tmp_path / "run", finished)
    balanced, plain = (read_member(folder / "members" / "mean")[1]["head.classifier.weights"] for folder in folders)
    assert not torch.equal(balanced, plain)


def write_thresholds(path: Path, threshold: float) -> Path:
    write_table(path, ("label", "threshold"), [(name, threshold) for name in LABELS])
    return path


def test_given_thresholds_stand_in_the_file(copy: Path, recipe_file: Path, tmp_path: Path):
    for threshold in (0.25, 0.75):
        table, before = write_thresholds(tmp_path / "own.csv", threshold), times(copy)
        run(load_recipe(recipe_file, (f"pack.thresholds={table}", *MEAN_ALONE)), copy)
        assert load(copy / "model.onnx").thresholds == pytest.approx([threshold] * len(LABELS), rel=0.05)
        assert {name for name, when in times(copy).items() if before[name] != when} == {"model.onnx"}
    before = times(copy)
    moved = table.rename(tmp_path / "moved.csv")
    run(load_recipe(recipe_file, (f"pack.thresholds={moved}", *MEAN_ALONE)), copy)
    assert times(copy) == before
    packed_again = pack(copy, "1MB", members=["mean"])
    assert load(packed_again).thresholds == pytest.approx([0.75] * len(LABELS), rel=0.05)


def test_without_validation_and_eval_the_last_weights_are_packed(vidfit, recipe_file: Path, tmp_path: Path):
    alone = "members={mean: {family: {type: mean}, head: {type: logistic}}}"
    changed = ("data.validation=[]", "data.eval=[]", alone, "training.steps=6", *MEAN_ALONE)
    options = [it for change in changed for it in ("--set", change)]
    code, out, err = vidfit("run", recipe_file, "-o", tmp_path / "run", *options)
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["members"][0]["step"], summary["members"][0]["gap_validation"]) == (6, None)
    assert summary["packed"]["gap"] is None
    assert load(tmp_path / "run" / "model.onnx").thresholds is None
    assert "model.onnx: " in out
