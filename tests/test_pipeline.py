"""A run: what it leaves, what a second call does, and what it refuses."""

import json
import shutil
import signal
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from tests.corpus import LABELS, VIDEOS, write_recipe
from tests.lives import lives
from vidfit import load, load_recipe, run
from vidfit.errors import BudgetError, DataError, OutputError, RecipeError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.example import to_sequence_example
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.spec import Video
from vidfit.features.tfrecord import write_records
from vidfit.pipeline import Run
from vidfit.quantization.member import load_member
from vidfit.training.checkpoint import read_member
from vidfit.training.checkpoint_manager import Checkpoints
from vidfit.training.soft_labels import SoftLabels, label_shards


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
    assert packed["bytes"] == (finished / packed["path"]).stat().st_size <= packed["budget"] == 330_000
    assert [(row["name"], row["bits"]) for row in packed["members"]] == [("vlad", 8), ("lstm", 8)]
    assert packed["members"][0]["weight"] == pytest.approx(2 / 3)
    assert {"map", "hit_at_1", "perr"} <= packed.keys()
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


def test_labels_of_an_older_file_do_not_outlive_it(copy: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch):
    (copy / "labels.json").unlink()
    run(load_recipe(recipe_file), copy)
    assert (copy / "labels.json").exists()

    def fails(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vidfit.pipeline.measure_labels", fails)
    with pytest.raises(KeyboardInterrupt):
        run(load_recipe(recipe_file, ("pack.members=[lstm]",)), copy)
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


def test_named_members_that_do_not_fit_in_8_bits_take_narrower_widths(copy: Path, recipe_file: Path):
    assert (copy / "model.onnx").stat().st_size > 250_000
    packed = run(load_recipe(recipe_file, ("pack.budget=250kB",)), copy)["packed"]
    assert packed["bytes"] <= 250_000
    assert {row["name"]: row["weight"] for row in packed["members"]} == pytest.approx({"vlad": 2 / 3, "lstm": 1 / 3})
    assert min(row["bits"] for row in packed["members"]) < 8
    assert packed["gap_confirmation"] > 0


def test_a_lost_file_is_made_again(copy: Path, recipe_file: Path):
    old = json.loads((copy / "summary.json").read_text())
    (copy / "members" / "vlad" / "quantized.safetensors").unlink()
    (copy / "model.onnx").unlink()
    assert run(load_recipe(recipe_file), copy) == old
    onnxruntime.InferenceSession(copy / "model.onnx")


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


def test_options_that_the_shards_refuse_are_told_before_any_training(recipe_file: Path, tmp_path: Path):
    recipe = load_recipe(recipe_file, ("members.vlad.family.clusters={rgb: 4, speech: 2}",))
    with pytest.raises(RecipeError, match=r"^members\.vlad\.family\.clusters: .*'speech'"):
        run(recipe, tmp_path / "run")
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
    with pytest.raises(BudgetError, match="no ensemble fits 200,000 bytes"):
        run(load_recipe(recipe_file, ("pack.budget=200kB",)), copy)
    assert not (copy / "model.onnx").exists()
    assert not (copy / "summary.json").exists()


def test_training_on_eval_shards_is_refused(corpus: Path, recipe_file: Path, tmp_path: Path):
    recipe = load_recipe(recipe_file, (f"data.train=[{corpus}/train, {corpus}/eval/eval0.tfrecord]",))
    with pytest.raises(DataError, match=r"eval0\.tfrecord: is in both data\.train and data\.eval"):
        run(recipe, tmp_path / "run")


class KilledError(Exception):
    """Stands for a kill."""


def test_a_run_killed_in_training_ends_as_if_never_killed(
    finished: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    promote = Checkpoints.promote

    def promote_and_die(self: Checkpoints) -> None:
        promote(self)
        raise KilledError

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoints, "promote", promote_and_die)
            with pytest.raises(KilledError):
                run(load_recipe(recipe_file), tmp_path / "killed")
    assert run(load_recipe(recipe_file), tmp_path / "killed") == json.loads((finished / "summary.json").read_text())
    for name in ("mean", "vlad", "lstm"):
        for file in ("best.safetensors", "last.safetensors"):
            member = Path("members", name, file)
            assert (tmp_path / "killed" / member).read_bytes() == (finished / member).read_bytes()


def test_a_budget_that_cannot_hold_is_refused_before_training(recipe_file: Path, tmp_path: Path):
    with pytest.raises(BudgetError, match=r"pack\.budget: the packed members take .* at least \(vlad "):
        run(load_recipe(recipe_file, ("pack.budget=20kB",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


SHORT = ("training.steps=8",)


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

    for name, sets in (("clean", ["train"]), ("leaky", ["train", "validation", "eval"])):
        for which in sets:
            poisoned(which, tmp_path / name, 0.2 if which == "train" else 1.0)
        teach(recipe_file, tmp_path / f"run-{name}", f"{{soft_labels: {tmp_path / name}}}")
    assert ids_in_soft_labels(tmp_path / "leaky") > ids_in_soft_labels(tmp_path / "clean")
    for member in ("mean", "vlad", "lstm"):
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
    summary = teach(recipe_file, tmp_path / "run", "{generations: 1, teachers: [one]}", twins, "pack.members=[one]")
    with pytest.raises(OutputError, match=r"members/one: was trained with different settings"):
        teach(recipe_file, tmp_path / "run", "{generations: 1, teachers: [two]}", twins, "pack.members=[one]")
    run(
        load_recipe(recipe_file, (*SHORT, "distill={generations: 1, teachers: [two]}", twins, "pack.members=[one]")),
        tmp_path / "run",
        overwrite=True,
    )
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["members"][0]["gap_validation"] != summary["members"][0]["gap_validation"]


def test_soft_labels_that_lack_a_shard_are_told_before_any_training(corpus: Path, recipe_file: Path, tmp_path: Path):
    shards = expand_shards([corpus / "train"])
    (tmp_path / "soft").mkdir()
    teacher = {shards[0]: lambda batch: np.full((len(batch), 5), 0.5, np.float32)}
    label_shards(
        shards[:1], tmp_path / "soft", teacher, LABELS, 5, lambda shard: Batches([shard], infer_spec(shards), None, 50)
    )
    with pytest.raises(DataError, match=r"soft: 48 of 96 training videos have no soft labels there, such as 0-1"):
        teach(recipe_file, tmp_path / "run", "{soft_labels: soft}")
    assert not (tmp_path / "run").exists()


def test_balanced_reading_trains_another_model(finished: Path, recipe_file: Path, tmp_path: Path):
    Run(load_recipe(recipe_file, ("training.balance=1",)), tmp_path / "run").train("mean")
    folders = (tmp_path / "run", finished)
    balanced, plain = (read_member(folder / "members" / "mean")[1]["head.classifier.weights"] for folder in folders)
    assert not torch.equal(balanced, plain)


def test_folds_need_as_many_shards(recipe_file: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"distill\.folds: .* of 2 training shards there are not 3 parts"):
        teach(recipe_file, tmp_path / "run", "{generations: 1, folds: 3}")
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_of_soft_labels_is_told_before_any_training(recipe_file: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"none: holds no soft labels"):
        teach(recipe_file, tmp_path / "run", "{soft_labels: none}")
    assert not (tmp_path / "run").exists()


def test_killed_again_and_again_ends_as_if_never_killed(corpus: Path, tmp_path: Path):
    """At random moments of all stages, by SIGKILL and by SIGTERM, until there is nothing left to do."""
    command = [
        "run",
        write_recipe(tmp_path, corpus),
        *("--set", "members={mean: {family: {type: mean}, head: {type: logistic}}}"),
        *("--set", "pack.members=[mean]"),
        *("--set", "distill={generations: 1, top_k: 3}"),
        *("--set", "training.averaging={steps: 16, learning_rate: 0.001, ema_decay: 0.875}"),
    ]
    # A checkpoint a step, so that most moments are in the midst of one.
    killed_command = [*command, "--set", "training.checkpoint_minutes=0.000001", "-o", tmp_path / "killed"]
    random, codes = Random(9), []
    with lives() as processes:
        assert processes.live(*command, "-o", tmp_path / "whole") == 0
        while not codes or codes[-1] != 0:
            number = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            codes.append(processes.kill(number, tmp_path / "killed", random, *killed_command))
            assert codes[-1] in (0, -signal.SIGKILL if number == signal.SIGKILL else 143)
            assert len(codes) < 100
    assert codes.count(-signal.SIGKILL) >= 3
    assert codes.count(143) >= 1
    for file in ("members/mean/best.safetensors", "members/mean/last.safetensors", "model.onnx", "summary.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
