"""What the user types: every verb, and one line with exit code 2 for every mistake."""

import json
import re
import resource
import shutil
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from tests.corpus import LABELS, SMALL_GRAPHS, VIDEOS, write_recipe
from vidfit.features.batch import Batch
from vidfit.training.train_step import TrainStep


def test_help_names_every_verb(vidfit):
    code, out, _ = vidfit("--help")
    assert code == 0
    for verb in (
        "run",
        "train",
        "soft-label",
        "quantize",
        "pack",
        "pack-members",
        "recipes",
        "evaluate",
        "predict",
        "export",
        "report",
        "inspect",
        "synth",
        "demo",
    ):
        assert verb in out


def test_version(vidfit):
    code, out, _ = vidfit("--version")
    assert code == 0
    assert out == f"vidfit {version('vidfit')}\n"


def test_inspect(vidfit, corpus: Path):
    code, out, _ = vidfit("inspect", corpus / "train", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["records"] == VIDEOS["train"]
    assert found["features"] == {"rgb": 24, "audio": 8}
    assert found["level"] == "frame"
    assert found["id_key"] == "id"
    _, out, _ = vidfit("inspect", corpus / "train", corpus / "eval")
    assert str(VIDEOS["train"] + VIDEOS["eval"]) in out


def test_inspect_tells_what_a_packed_file_holds(vidfit, finished: Path):
    packed = json.loads((finished / "summary.json").read_text())["packed"]
    code, out, _ = vidfit("inspect", finished / "model.onnx", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["bytes"], found["features"]) == (packed["bytes"], {"rgb": 24, "audio": 8})
    assert list(found["members"]) == [member["name"] for member in packed["members"]]
    _, out, _ = vidfit("inspect", finished / "model.onnx")
    assert f"bytes        {packed['bytes']}" in out
    code, _, err = vidfit("inspect", finished / "model.onnx", finished / "model.onnx")
    assert (code, len(err.splitlines())) == (2, 1)


def test_run_train_and_summary(vidfit, corpus: Path, tmp_path: Path):
    recipe = write_recipe(tmp_path, corpus)
    short = ("--set", "training.steps=8", "--set", "pack.members=[mean]")
    code, _, err = vidfit("train", recipe, "-o", tmp_path / "run", "--member", "mean", *short)
    assert code == 0
    assert "mean: best validation GAP" in err
    assert [path.name for path in (tmp_path / "run" / "members").iterdir()] == ["mean"]
    code, out, _ = vidfit("run", recipe, "-o", tmp_path / "run", *short)
    assert code == 0
    assert "packed" in out
    assert (tmp_path / "run" / "summary.json").exists()
    report = tmp_path / "run" / "report.html"
    assert f"{report}: all of it on one page" in out
    report.unlink()
    assert vidfit("report", tmp_path / "run") == (0, f"{report}\n", "")
    assert report.exists()
    code, _, err = vidfit("report", tmp_path)
    assert code == 2
    assert "is not a run folder" in err


@pytest.mark.parametrize("trouble", ["disk", "shard", "divergence", "signal"])
def test_trouble_in_training_is_one_line_and_it_can_be_gone_on(
    vidfit, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
):
    shutil.copytree(corpus, tmp_path / "corpus")
    recipe = write_recipe(tmp_path, tmp_path / "corpus")
    command = ("train", recipe, "--member", "vlad", "-o")
    shard = tmp_path / "corpus" / "train" / "train1.tfrecord"
    step, limits = TrainStep.__call__, resource.getrlimit(resource.RLIMIT_FSIZE)

    def troubled(self: TrainStep, batch: Batch, targets_BC: torch.Tensor, number: int, *more: Any):
        if number == 10:
            match trouble:
                case "disk":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
                case "shard":
                    shard.rename(tmp_path / "away")
                case "divergence":
                    targets_BC = targets_BC * torch.nan
                case "signal":
                    signal.raise_signal(signal.SIGTERM)
        return step(self, batch, targets_BC, number, *more)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", troubled)
        code, _, err = vidfit(*command, tmp_path / "run")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGTERM, handler)
    vlad = tmp_path / "run" / "members" / "vlad"
    expected, line = {
        "disk": (
            2,
            r".*/members/vlad/between\.safetensors: cannot be written \(File too large\); raise the limit .*",
        ),
        "shard": (2, r".*/train1\.tfrecord: cannot be read \(No such file or directory\); check .*"),
        "divergence": (2, "member vlad: the loss is nan at step 11; .* try a lower learning_rate or on_nan: halve"),
        "signal": (143, r"stopped; call the same command again \(it resumes where it can\)"),
    }[trouble]
    assert code == expected
    assert re.fullmatch(f"vidfit: {line}", err.splitlines()[-1])
    assert "Traceback" not in err
    if trouble == "signal":
        assert "vlad: stopped after step 11, which is kept" in err
    assert vidfit("evaluate", vlad / "last.safetensors", corpus / "eval")[0] == 0
    if trouble == "shard":
        (tmp_path / "away").rename(shard)
    assert vidfit(*command, tmp_path / "run")[0] == 0
    assert vidfit(*command, tmp_path / "whole")[0] == 0
    for file in ("best.safetensors", "last.safetensors"):
        assert (vlad / file).read_bytes() == (tmp_path / "whole" / "members" / "vlad" / file).read_bytes()


def test_evaluate_takes_packed_files_and_members(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    summary = json.loads((finished / "summary.json").read_text())
    code, out, _ = vidfit("evaluate", finished / "model.onnx", corpus / "eval", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    assert code == 0
    assert f"{found['gap']:.4f}" in out
    assert found["gap"] == summary["packed"]["gap"]
    assert found["videos"] == VIDEOS["eval"]
    assert {"gap", "map", "hit_at_1", "perr", "videos", "seconds"} <= found.keys()
    assert {"micro_f1", "macro_f1"} <= found.keys()
    starts = {len(line) - len(line.split(maxsplit=1)[1]) for line in out.splitlines()}
    assert len(starts) == 1  # figures stand in one column
    filled, plain = (
        vidfit("evaluate", finished / "members" / "vlad", corpus / "eval", "--fill-up", slots)[1] for slots in (12, 0)
    )
    assert filled.splitlines()[:4] != plain.splitlines()[:4]
    vidfit("evaluate", finished / "members" / "vlad", corpus / "eval", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["gap"] == pytest.approx(summary["members"][1]["gap"], abs=1e-6)


def test_quantize_and_pack(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    target = tmp_path / "q.safetensors"
    assert vidfit("quantize", finished / "members" / "lstm", "-o", target)[0] == 0
    assert target.read_bytes() == (finished / "members" / "lstm" / "quantized.safetensors").read_bytes()
    code, _, err = vidfit("quantize", finished / "members" / "lstm", "-o", target)
    assert code == 2
    assert "--overwrite" in err
    members = (finished / "members" / "mean", target)
    model = tmp_path / "m.onnx"
    weights = ("--weight", 2, "--weight", 1)
    code, out, _ = vidfit("pack-members", *members, "-o", model, "--budget", "1MB", *weights)
    assert code == 0
    assert "2 members" in out
    assert vidfit("evaluate", model, corpus / "eval", "--json", tmp_path / "e.json")[0] == 0
    folder = shutil.copytree(finished, tmp_path / "run")
    recipe = write_recipe(tmp_path, corpus)
    assert vidfit("run", recipe, "-o", folder, "--set", "pack.members={mean: 2, lstm: 1}")[0] == 0
    packed = json.loads((folder / "summary.json").read_text())["packed"]
    assert json.loads((tmp_path / "e.json").read_text())["gap"] == packed["gap"]
    code, _, err = vidfit("pack-members", *members, "-o", model, "--budget", "1MB", "--overwrite", "--weight", 1)
    assert code == 2
    assert err == "vidfit: --weight: give 2 positive weights, one for each member\n"


def test_export_without_tensorflow_names_what_installs_it(vidfit, finished: Path, tmp_path: Path, monkeypatch):
    """What it writes is tested in export/test_tensorflow.py, with TensorFlow."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "vidfit.export.tensorflow_operators", raising=False)
    monkeypatch.delitem(sys.modules, "vidfit.export.tensorflow", raising=False)
    told = vidfit("export", finished / "model.onnx", "--to", "tensorflow", tmp_path / "saved")
    assert told == (2, "", "vidfit: TensorFlow is not installed: pip install 'vidfit[tensorflow]'\n")
    assert list(tmp_path.iterdir()) == []


def test_soft_labels_and_a_student_of_them(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    command = ("soft-label", finished / "model.onnx", corpus / "train", "-o", tmp_path / "soft", "--top-k", 2)
    code, out, err = vidfit(*command, "--teacher", finished / "members" / "mean")
    assert code == 0, err
    assert "2 of 2 shards labelled now" in out
    code, out, _ = vidfit(*command, "--teacher", finished / "members" / "mean")
    assert code == 0
    assert "0 of 2 shards labelled now" in out
    # One teacher less is another teacher.
    code, _, err = vidfit(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert "was made from another shard, by other teachers or with another top_k" in err
    assert vidfit(*command, "--overwrite")[0] == 0
    recipe = write_recipe(tmp_path, corpus)
    student = ("train", recipe, "-o", tmp_path / "run", "--member", "mean", "--set", "distill.soft_labels=soft")
    code, _, err = vidfit(*student)
    assert code == 0, err
    (tmp_path / "soft" / "train0.tfrecord.parquet").unlink()
    code, _, err = vidfit(*student, "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "48 of 96 training videos have no soft labels" in err


def test_predict_writes_three_formats(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    for suffix in ("csv", "jsonl", "parquet"):
        target = tmp_path / f"out.{suffix}"
        assert vidfit("predict", finished / "model.onnx", corpus / "eval", "-o", target, "--top-k", 3)[0] == 0
    header, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "VideoId,LabelConfidencePairs"
    assert len(rows) == VIDEOS["eval"]
    assert all(len(row.split(",")[1].split(" ")) == 6 for row in rows)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["labels"] == [LABELS[index] for index in lines[0]["indices"]]
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").column("labels").to_pylist() == [
        line["labels"] for line in lines
    ]


@pytest.mark.parametrize("form", ["model.onnx", "members/lstm"])
def test_batch_size_and_threads_change_rounding_alone(vidfit, finished: Path, corpus: Path, tmp_path: Path, form: str):
    found = {}
    for batch_size, threads in ((1, 1), (3, 2), (32, 0)):
        options = ("--batch-size", batch_size, "--threads", threads)
        target = tmp_path / f"{batch_size}.jsonl"
        assert vidfit("predict", finished / form, corpus / "eval", "-o", target, *options)[0] == 0
        lines = [json.loads(line) for line in target.read_text().splitlines()]
        code, out, _ = vidfit("evaluate", finished / form, corpus / "eval", *options)
        assert code == 0
        gap = float(out.split()[1])
        by_label = [(line["id"], dict(zip(line["indices"], line["probabilities"], strict=True))) for line in lines]
        found[batch_size] = [id for id, _ in by_label], [[row[label] for label in range(5)] for _, row in by_label], gap
    ids, probabilities, gap = found[1]
    for other_ids, others, other_gap in found.values():
        assert other_ids == ids
        assert others == [pytest.approx(row, abs=1e-5) for row in probabilities]
        assert other_gap == pytest.approx(gap, abs=1e-4)


def test_a_run_is_searched_and_packed_for_other_budgets(vidfit, corpus: Path, tmp_path: Path):
    recipe = write_recipe(tmp_path, corpus)
    folder = tmp_path / "run"
    search = ("--set", "pack={budget: 200kB}", "--set", SMALL_GRAPHS)
    code, out, err = vidfit("run", recipe, "-o", folder, *search)
    assert code == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    packed = summary["packed"]
    assert packed["bytes"] == (folder / "model.onnx").stat().st_size <= 200_000
    assert [row["name"] for row in packed["members"]] == ["mean", "frames"]
    assert f"{packed['gap_selection']:.4f} on the half that selected its members" in out
    assert json.loads((folder / "frontier.json").read_text())["baselines"] == {}
    # The second call finds everything done.
    assert vidfit("run", recipe, "-o", folder, *search)[0] == 0
    assert json.loads((folder / "summary.json").read_text()) == summary

    code, out, err = vidfit("pack", folder, "--budget", "40kB", "--budget", "220kB")
    assert code == 0, err
    for budget, limit in (("40kB", 40_000), ("220kB", 220_000)):
        assert str(folder / "packed" / f"{budget}.onnx") in out
        assert (folder / "packed" / f"{budget}.onnx").stat().st_size <= limit
    assert vidfit("evaluate", folder / "packed" / "40kB.onnx", corpus / "eval")[0] == 0
    code, _, err = vidfit("pack", folder, "--budget", "1kB")
    assert (code, "smallest possible file takes" in err) == (2, True)
    code, _, err = vidfit("pack", folder / "members" / "mean", "--budget", "220kB")
    assert (code, "is not a run folder" in err, "use `vidfit pack-members`" in err) == (2, True, True)

    code, out, err = vidfit("frontier", folder, "--budget", "40kB")
    assert code == 0, err
    assert "best single 8-bit member" in out
    assert (folder / "frontier.csv").exists()


def test_a_run_in_a_folder_of_an_odd_name(vidfit, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not UTF-8, a pattern's brackets, and what pyarrow takes for the scheme of a URL."""
    monkeypatch.chdir(tmp_path)
    folder = Path("lr:0.01 [1] caf\udce9")
    shutil.copytree(corpus, folder / "corpus")
    recipe = write_recipe(folder, Path("corpus"))
    train = folder / "corpus" / "train"
    (train / "train0.tfrecord").rename(train / "a:\udce9.tfrecord")
    options = ("--set", "pack={budget: 60kB}", "--set", "distill={generations: 1}")
    only = ("--set", "members={mean: {family: {type: mean}, head: {type: logistic}}}", "--set", "training.steps=4")
    for _ in range(2):
        code, out, err = vidfit("run", recipe, "-o", folder / "run", *options, *only)
        assert code == 0, err
        assert "run/report.html: all of it on one page" in out
    model = folder / "run" / "model.onnx"
    assert vidfit("pack", folder / "run", "--budget", "50kB")[0] == 0
    assert vidfit("evaluate", model, folder / "corpus" / "eval", "--json", folder / "e.json")[0] == 0
    for suffix in ("csv", "jsonl", "parquet"):
        code, _, err = vidfit(
            "predict", model, folder / "corpus" / "*" / "*.tfrecord", "-o", folder / f"12:30.{suffix}"
        )
        assert code == 0, err
    assert len((folder / "12:30.csv").read_text().splitlines()) == sum(VIDEOS.values()) + 1
    for added in (2, 0):
        told = vidfit("cache", train, "-o", folder / "cache")
        assert f"{added} of 2 shards cached now; in all {VIDEOS['train']} videos" in told[1]
