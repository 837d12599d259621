"""What the user types: every verb, and one line with exit code 2 for every mistake."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.corpus import LABELS, VIDEOS, write_recipe
from vidfit.cli import main


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
    for verb in ("run", "train", "quantize", "pack", "evaluate", "predict", "inspect", "synth", "demo"):
        assert verb in out


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


def test_evaluate_takes_packed_files_and_members(vidfit, finished: Path, corpus: Path, tmp_path: Path):
    summary = json.loads((finished / "summary.json").read_text())
    code, out, _ = vidfit("evaluate", finished / "model.onnx", corpus / "eval", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    assert code == 0
    assert f"{found['gap']:.4f}" in out
    assert found["gap"] == summary["packed"]["gap"]
    assert found["videos"] == VIDEOS["eval"]
    assert {"gap", "map", "hit_at_1", "perr", "videos", "seconds"} <= found.keys()
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
    code, out, _ = vidfit("pack", *members, "-o", model, "--budget", "1MB", *weights)
    assert code == 0
    assert "2 members" in out
    assert vidfit("evaluate", model, corpus / "eval", "--json", tmp_path / "e.json")[0] == 0
    summary = json.loads((finished / "summary.json").read_text())
    assert json.loads((tmp_path / "e.json").read_text())["gap"] == summary["packed"]["gap"]
    code, _, err = vidfit("pack", *members, "-o", model, "--budget", "1MB", "--overwrite", "--weight", 1)
    assert code == 2
    assert "give 2 positive weights" in err


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


def mistakes(finished: Path, corpus: Path, tmp_path: Path) -> dict[str, tuple[tuple[object, ...], str]]:
    model, members, recipe = finished / "model.onnx", finished / "members", write_recipe(tmp_path, corpus)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-100])
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    run = ("run", recipe, "-o", tmp_path / "run", "--set")
    return {
        "empty glob": (("inspect", tmp_path / "no*.tfrecord"), "no*.tfrecord"),
        "missing recipe": (("run", tmp_path / "none.yaml", "-o", tmp_path / "run"), "none.yaml"),
        "unknown key": ((*run, "pack.budgett=1MB"), "pack.budgett"),
        "no such member": (("train", recipe, "-o", tmp_path / "run", "--member", "bert"), "bert"),
        "cut packed file": (("evaluate", cut, corpus / "eval"), "cut.onnx"),
        "text as member": (("evaluate", text, corpus / "eval"), "notes.txt"),
        "missing model": (("predict", tmp_path / "m.onnx", corpus / "eval", "-o", tmp_path / "o.csv"), "m.onnx"),
        "format": (("predict", model, corpus / "eval", "-o", tmp_path / "o.xls"), "o.xls"),
        "folder": (("predict", model, corpus / "eval", "-o", tmp_path / "no" / "o.csv"), "o.csv"),
        "no size": (("pack", members / "mean", "-o", tmp_path / "m.onnx", "--budget", "big"), "big"),
        "budget": (("pack", members / "vlad", "-o", tmp_path / "m.onnx", "--budget", "1kB"), "over the budget"),
        "vocabulary": ((*run, f"data.vocabulary={text}"), "notes.txt"),
        "labels": ((*run, f"data.vocabulary={short_vocabulary(tmp_path)}"), "outside the vocabulary"),
        "modality": ((*run, "members.vlad.family.clusters={rgb: 4, speech: 2}"), "speech"),
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
        "text as member",
        "missing model",
        "format",
        "folder",
        "no size",
        "budget",
        "vocabulary",
        "labels",
        "modality",
    ],
)
def test_mistakes(vidfit, finished: Path, corpus: Path, tmp_path: Path, which: str):
    arguments, named = mistakes(finished, corpus, tmp_path)[which]
    code, _, err = vidfit(*arguments)
    assert code == 2
    assert named in err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("vidfit: ")
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
    code, _, err = vidfit("pack", finished / "members" / "mean", "-o", tmp_path / "m.onnx", "--budget", "1MB")
    assert code == 2
    assert "m.onnx" in err
