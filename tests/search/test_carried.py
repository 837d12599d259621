"""`vidfit pack --with-extractor`: one file from pictures and sound to labels, under a budget."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import vidfit
from tests.conftest import call
from tests.videos.making import BLUE, GREEN, RED, frames_at, plain, small_model, tone, write
from vidfit import load_recipe
from vidfit.errors import BudgetError
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.progress import silent
from vidfit.search.budget import Ensemble
from vidfit.search.carried import Forms
from vidfit.search.run_members import RunMembers
from vidfit.search.runs import open_runs
from vidfit.training.checkpoint import read_member, save_member

Command = Callable[..., tuple[int, str]]
RECIPE = """
data: {train: features/shards/train*, validation: features/shards/validation*, eval: features/shards/eval*,
       vocabulary: features/vocabulary.csv}
training: {steps: 60, batch_size: 16, learning_rate: 0.05, validate_every: 30, batch_norm_momentum: 0.1}
members: {mean: {family: {type: mean}, head: {type: logistic}}}
pack: {budget: 300kB, members: {mean: 1}}
"""


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command; gives exit code and everything it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        return call(*arguments), "".join(capfd.readouterr())

    return run


def picture_model(folder: Path) -> str:
    """A projection of all pixels to 32 values: its 98 kB of weights take 25 kB in 8 bits."""
    matrix = (np.random.default_rng(2).normal(size=(768, 32)) / 28).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 16, 16, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", 32])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    path = folder / "pixels.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    card = {"modality": "rgb", "embedding_size": 32, "output": "embeddings", "size": 16}
    path.with_suffix(".yaml").write_text(json.dumps(card | {"mean": [127.5], "deviation": [64.0]}))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `videos`, and `run`, trained on their features."""
    folder = tmp_path_factory.mktemp("carried")
    (folder / "videos").mkdir()
    rows = ["path,labels,split"]
    for name, colour in {"red": RED, "green": GREEN, "blue": BLUE}.items():
        for clip in range(20):
            shade = np.clip(np.array(colour) + 2 * clip, 0, 255).tolist()
            path = f"videos/{name}{clip}.mp4"
            write(folder / path, lambda time, shade=shade: plain(shade), frames_at(2, 2), tone(400, 2))
            rows.append(f"{path},{name},{'validation' if clip < 12 else 'train' if clip < 19 else 'eval'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    extract(folder, "features", picture_model(folder))
    vidfit.run(vidfit.load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder


def extract(folder: Path, output: str, picture_model: str) -> None:
    models = ["--image-model", picture_model, "--sound-model", small_model(folder, "bands", "audio")]
    sizes = ["--image-bytes", "3", "--sound-bytes", "2", "--workers", "1"]
    assert call("extract", folder / "labels.csv", "-o", folder / output, *models, *sizes) == 0


@pytest.fixture(scope="module")
def other(place: Path) -> Path:
    """A run on features of a much smaller model for pictures, which is hardly trained."""
    extract(place, "colours", small_model(place, "colour", "rgb"))
    (place / "other.yaml").write_text(RECIPE.replace("features/", "colours/").replace("0.05", "0.002"))
    vidfit.run(vidfit.load_recipe(place / "other.yaml"), place / "other")
    return place / "other"


def described(place: Path, budget: str) -> dict:
    return json.loads((place / "run" / "packed" / f"{budget}.json").read_text())


def test_a_file_labels_videos_without_the_models_files(place: Path, command: Command, tmp_path: Path):
    code, _ = command("pack", place / "run", "--with-extractor", "--budget", "300kB", "--budget", "90kB")
    assert code == 0
    video = place / "videos" / "green19.mp4"
    assert command("label", place / "run" / "model.onnx", video, "-o", tmp_path / "apart.json", "--window", "1")[0] == 0
    hidden = [path.rename(path.with_suffix(".hidden")) for path in place.glob("*.onnx")]
    try:
        for budget, bits in (("300kB", 32), ("90kB", 8)):
            path = place / "run" / "packed" / f"{budget}.onnx"
            assert path.stat().st_size <= int(budget[:-2]) * 1000
            assert described(place, budget)["extractor"]["rgb"] == bits
            assert command("label", path, video, "-o", tmp_path / f"{bits}.json", "--window", "1")[0] == 0
            found = json.loads((tmp_path / f"{bits}.json").read_text())
            apart = json.loads((tmp_path / "apart.json").read_text())
            assert _close(found, apart)
    finally:
        for path in hidden:
            path.rename(path.with_suffix(".onnx"))


def _close(found: object, expected: object) -> bool:
    """Whether two JSON documents are the same, numbers to 0.02."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(_close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, float) and isinstance(found, float):
        return abs(found - expected) <= 0.02
    return found == expected


@pytest.mark.parametrize(("budget", "carries"), [("91kB", {"rgb": 8, "audio": 32}), ("30kB", {"audio": 32})])
def test_like_a_file_makes_the_features_of_its_own_models(place, command, tmp_path, budget, carries):
    assert command("pack", place / "run", "--with-extractor", "--budget", budget)[0] == 0
    path = place / "run" / "packed" / f"{budget}.onnx"
    assert described(place, budget)["extractor"] == carries
    hidden = [it.rename(it.with_suffix(".hidden")) for it in place.glob("*.onnx")]
    try:
        code, printed = command("extract", place / "labels.csv", "-o", tmp_path / "features", "--like", path)
        assert code == 0, printed
        clips = [place / "videos" / f"{name}19.mp4" for name in ("red", "green", "blue")]
        labelled = list(vidfit.label(path, clips, threshold=1e-9))
    finally:
        for it in hidden:
            it.rename(it.with_suffix(".onnx"))
    shards = tmp_path / "features" / "shards"
    assert command("evaluate", path, shards)[0] == 0
    predictor = vidfit.load(path)
    videos = [it for shard in shards.iterdir() for it in read_videos(shard, predictor.spec)]
    by_id = {Path(it.id).stem: it for it in videos if isinstance(it, Video)}
    assert len(labelled) == 3
    for one in labelled:
        frames = {modality: array[None] for modality, array in by_id[Path(one.path).stem].frames.items()}
        found = dict(zip(predictor.vocabulary, predictor.predict(frames)[0], strict=True))
        assert found == pytest.approx({it.label: it.probability for it in one.labels}, abs=1e-6)


def test_every_form_that_fits_is_measured(place: Path, command: Command):
    assert command("pack", place / "run", "--with-extractor", "--budget", "301kB")[0] == 0
    tried = described(place, "301kB")["tried"]
    forms = [{"rgb": 32, "audio": 32}, {"rgb": 32}, {"rgb": 8, "audio": 32}, {"rgb": 8}, {"audio": 32}]
    assert [form["extractor"] for form in tried] == forms
    chosen = described(place, "301kB")
    assert chosen["gap_selection"] == max(form["gap_selection"] for form in tried)


def test_the_frontier_counts_the_extractor(place: Path, command: Command):
    budgets = ("--budget", "60kB", "--budget", "300kB")
    assert command("frontier", place / "run", "--with-extractor", *budgets)[0] == 0
    points = json.loads((place / "run" / "frontier.json").read_text())["points"]
    assert [point["budget"] for point in points] == [60_000, 300_000]
    assert all(20_000 < point["bytes"] <= point["budget"] and point["gap"] > 0.5 for point in points)


def test_a_recipe_packs_named_members_with_the_extractor(place: Path, command: Command, tmp_path: Path):
    shutil.copytree(place / "run", tmp_path / "run")
    options = ["--set", "pack.with_extractor=true", "--set", "pack.budget=90kB"]
    assert command("run", place / "recipe.yaml", "-o", tmp_path / "run", *options)[0] == 0
    path = tmp_path / "run" / "model.onnx"
    assert path.stat().st_size <= 90_000
    assert vidfit.load(path).carried
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["packed"]["gap"] > 0.5


def test_videos_without_labels_are_kept_or_skipped_as_asked(place: Path):
    recipe = load_recipe(place / "run" / "recipe.yaml")
    names = set()
    for recipe.data.unlabelled in ("keep", "skip"):
        forms = Forms(RunMembers.read(place / "run", recipe), silent)
        names.add(forms.shard(forms.all[0]).name)
    assert len(names) == 2


def test_features_that_were_made_anew_by_other_models(place: Path, command: Command):
    told = place / "features" / "extractor.json"
    before = told.read_text()
    other = json.loads(before)
    other["settings"]["rate"] = 2.0
    told.write_text(json.dumps(other))
    try:
        code, printed = command("pack", place / "run", "--with-extractor", "--budget", "303kB")
    finally:
        told.write_text(before)
    assert code == 2
    assert "these features were made with pixels and bands, 2 a second" in printed
    assert not list((place / "run" / "packed").glob("303kB*"))


def test_too_small_a_budget_says_what_is_possible(place: Path, command: Command):
    code, printed = command("pack", place / "run", "--with-extractor", "--budget", "2kB")
    assert code == 2
    assert "the smallest possible, with bands in 32 bits, 1 a second, takes" in printed
    assert not (place / "run" / "packed" / "2kB.onnx").exists()


def test_videos_that_are_gone_are_named(place: Path, command: Command):
    for path in (place / "run" / "packing" / "extractor").glob("*"):
        path.unlink()
    (place / "videos").rename(place / "elsewhere")
    try:
        code, printed = command("pack", place / "run", "--with-extractor", "--budget", "302kB")
    finally:
        (place / "elsewhere").rename(place / "videos")
    assert code == 2
    assert "names no file of the validation video" in printed
    assert not list((place / "run" / "packed").glob("302kB*"))


def test_each_budget_takes_the_run_that_is_best_for_it(place: Path, other: Path, command: Command, tmp_path: Path):
    budgets = ("--budget", "304kB", "--budget", "20kB")
    code, printed = command("pack", place / "run", other, "--with-extractor", *budgets)
    assert code == 0
    large, small = described(place, "304kB"), described(place, "20kB")
    for chosen in (large, small):
        assert chosen["gap_selection"] == max(it["gap_selection"] for it in chosen["tried"])
        assert {Path(it["run"]).name for it in chosen["tried"]} == {"run", "other"}
    assert large["run"] == str(place / "run")
    assert large["models"].startswith("pixels in 32 bits")
    assert small["run"] == str(other)
    assert small["models"].startswith("colour in 32 bits")
    assert "of " + small["run"] + " with colour in 32 bits" in printed
    path = place / "run" / "packed" / "20kB.onnx"
    assert command("label", path, place / "videos" / "green19.mp4", "-o", tmp_path / "it.csv")[0] == 0


def test_a_run_that_is_too_slow_is_left_out(place: Path, other: Path, caplog, monkeypatch: pytest.MonkeyPatch):
    runs = open_runs([place / "run", other], with_extractor=True)
    slow, fast = runs.packers
    monkeypatch.setattr(slow.search, "frontier", slow_frontier)
    with caplog.at_level("INFO", "vidfit"):
        runs.pack_named(["307kB"], max_ms=1e6)
    assert described(place, "307kB")["run"] == str(fast.directory)
    assert f"{slow.directory}, bands in 32 bits, 1 a second: left out, no member takes at most" in caplog.text
    monkeypatch.setattr(fast.search, "frontier", slow_frontier)
    with pytest.raises(BudgetError, match=f"{slow.directory}: no member takes .*; {fast.directory}: no member takes"):
        runs.pack_named(["308kB"], max_ms=1e6)


def slow_frontier(max_ms: float) -> list[Ensemble]:
    raise BudgetError(f"no member takes at most {max_ms} ms per video")


def test_a_frontier_of_two_runs(place: Path, other: Path, command: Command):
    budgets = ("--budget", "20kB", "--budget", "300kB")
    code, printed = command("frontier", place / "run", other, "--with-extractor", *budgets)
    assert code == 0
    points = json.loads((place / "run" / "frontier.json").read_text())["points"]
    assert [Path(point["run"]).name for point in points] == ["other", "run"]
    for said in (printed, (place / "run" / "report.html").read_text()):
        assert all(point["models"] in said for point in points)


def test_several_runs_need_their_extractors(place: Path, other: Path, command: Command):
    code, printed = command("pack", place / "run", other, "--budget", "305kB")
    assert code == 2
    assert "add --with-extractor" in printed


def test_runs_of_other_labels_or_videos_are_refused(place: Path, other: Path, command: Command, tmp_path: Path):
    third = Path(shutil.copytree(other, tmp_path / "third"))
    recipe = (third / "recipe.yaml").read_text()
    (third / "recipe.yaml").write_text(recipe.replace("validation*", "eval*"))
    code, printed = command("pack", place / "run", third, "--with-extractor", "--budget", "305kB")
    assert code == 2
    assert "its validation video 0 is 'videos/" in printed
    (third / "recipe.yaml").write_text(recipe)
    info, tensors, _ = read_member(third / "members" / "mean")
    renamed = info.model_copy(update={"vocabulary": ("azure", *info.vocabulary[1:])})
    save_member(third / "members" / "mean" / "best.safetensors", renamed, tensors)
    code, printed = command("pack", place / "run", third, "--with-extractor", "--budget", "305kB")
    assert code == 2
    assert f"{third}: its label 0 is 'azure', that of {place / 'run'} is 'blue'" in printed
