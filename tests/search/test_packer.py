"""A finished run packed for budgets: what fits, what is kept, what is refused."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml

from tests.corpus import SMALL_GRAPHS, write_recipe
from vidfit import load, load_recipe, pack
from vidfit.errors import BudgetError, DataError, ModelFileError, OutputError
from vidfit.pipeline import Run
from vidfit.progress import Progress
from vidfit.quantization.member import load_member
from vidfit.quantization.sensitivity import divergence
from vidfit.search import candidates
from vidfit.search.budget import best_within
from vidfit.search.frontier import measure_frontier
from vidfit.search.packer import Packer, open_run
from vidfit.search.runs import open_runs
from vidfit.training.checkpoint import read_member, save_member
from vidfit.training.validation import predict


@pytest.fixture(scope="module")
def searched(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose candidates have been made; read only."""
    folder = tmp_path_factory.mktemp("searched")
    recipe = load_recipe(write_recipe(folder, corpus), (SMALL_GRAPHS, "pack={budget: 200kB}"))
    training = Run(recipe, folder / "run")
    for name in recipe.members:
        training.train(name)
    open_run(folder / "run").search.frontier()
    return folder / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "run"))


def test_files_fit_and_tell_the_truth_of_size_and_scores(run: Path):
    packer = open_run(run)
    frontier = packer.search.frontier()
    assert [len(ensemble.candidates) for ensemble in (frontier[0], frontier[-1])] == [1, 2]
    for budget in (frontier[0].bytes, 2 * frontier[-1].bytes):
        file = pack(run, f"{budget}")
        told = json.loads(file.with_suffix(".json").read_text())
        assert file.stat().st_size == told["bytes"] <= budget == told["budget"]
        best = best_within(frontier, budget)
        assert best.bytes * 0.93 < told["bytes"] <= best.bytes
        predicted_VC = packer.search.validation.predictions(load(file).predict_batch)
        assert {key: told[key] for key in ("gap_selection", "gap_confirmation")} == packer.search.validation.gaps(
            predicted_VC
        )
        blend_VC = sum(
            weight * packer.search.candidates[place].predictions().astype(np.float32)
            for place, weight in zip(best.candidates, best.weights, strict=True)
        )
        np.testing.assert_allclose(predicted_VC, blend_VC, atol=3e-3)
        assert [member["name"] for member in told["members"]] == [
            packer.search.candidates[place].member for place in best.candidates
        ]


def test_a_packed_file_is_logged_and_nothing_is_printed(run: Path, capsys, caplog):
    seen: list[Progress] = []
    with caplog.at_level(logging.INFO, logger="vidfit"):
        file = pack(run, "50kB", on_progress=seen.append)
    assert capsys.readouterr() == ("", "")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [str(file)]
    held = len(json.loads(file.with_suffix(".json").read_text())["members"])
    assert f": {held} member{'s' * (held > 1)} in " in caplog.text
    searching = [now.done for now in seen if now.stage == "searching"]
    assert searching == list(range(1, len(searching) + 1))
    assert {now.stage for now in seen} == {"searching", "choosing thresholds"}


def test_a_file_without_its_thresholds_gets_no_name(run: Path):
    file = pack(run, "50kB")
    before, described = file.read_bytes(), file.with_suffix(".json").read_text()
    recipe = run / "recipe.yaml"
    document = yaml.safe_load(recipe.read_text())
    table = {"thresholds": str(run / "gone.csv")}
    recipe.write_text(yaml.safe_dump(document | {"pack": document["pack"] | table}))
    for budget in ("50kB", "60kB"):
        with pytest.raises(DataError, match=r"gone\.csv: there is no such file"):
            pack(run, budget, overwrite=True)
    assert sorted(path.name for path in file.parent.iterdir()) == ["50kB.json", "50kB.onnx"]
    assert (file.read_bytes(), file.with_suffix(".json").read_text()) == (before, described)


def test_frame_probabilities_are_left_out_where_none_can_be(run: Path, caplog):
    recipe = run / "recipe.yaml"
    document = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(document | {"pack": document["pack"] | {"frame_probabilities": True}}))
    file = pack(run, "20kB")
    assert [row["name"] for row in json.loads(file.with_suffix(".json").read_text())["members"]] == ["mean"]
    assert "no member is a frame-classifier, so the file gives no frame probabilities" in caplog.text
    assert [output.name for output in onnx.load(file).graph.output] == ["probabilities"]


def test_given_members_are_all_packed_with_equal_weights(run: Path):
    file = pack(run, "200kB", members=["mean", "frames"])
    told = json.loads(file.with_suffix(".json").read_text())
    assert [(member["name"], member["weight"]) for member in told["members"]] == [("mean", 0.5), ("frames", 0.5)]
    with pytest.raises(BudgetError, match="smallest possible file takes"):
        pack(run, "20kB", members=["mean", "frames"])
    with pytest.raises(ModelFileError, match="has no trained member 'vlad'; it has mean, frames"):
        pack(run, "200kB", members=["mean", "vlad"])


def test_candidates_span_widths_and_near_the_float_member(run: Path):
    packer = open_run(run)
    own = [candidate for candidate in packer.search.candidates if candidate.member == "frames"]
    assert own[0].bits < 3
    assert own[-1].bits > 5
    assert [candidate.bytes for candidate in own] == sorted(candidate.bytes for candidate in own)
    classifier = load_member(run / "members" / "frames").classifier()
    reference = packer.search.validation.predictions(lambda batch: predict(classifier, batch))
    away = [divergence(reference, candidate.predictions()) for candidate in own]
    assert away[-1] < away[0]
    saved = json.loads((run / "packing" / "frames" / "candidates.json").read_text())
    assert {cost["tensor"] for cost in saved["costs"]} == set(saved["candidates"][0]["schemes"])


def test_a_second_call_measures_nothing_again(run: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(candidates, "sensitivity", fail)
    assert open_run(run).search.frontier()


def test_a_member_that_is_trained_again_is_measured_again(run: Path):
    before = (run / "packing" / "mean" / "candidates.json").read_text()
    info, tensors, _ = read_member(run / "members" / "mean")
    tensors["head.classifier.biases"] += 1
    save_member(run / "members" / "mean" / "best.safetensors", info, tensors)
    others = (run / "packing" / "frames" / "candidates.json").stat().st_mtime_ns
    open_run(run).search.frontier()
    assert (run / "packing" / "mean" / "candidates.json").read_text() != before
    assert (run / "packing" / "frames" / "candidates.json").stat().st_mtime_ns == others


def test_a_kill_while_making_candidates_costs_one_member(run: Path, monkeypatch: pytest.MonkeyPatch):
    document = run / "packing" / "mean" / "candidates.json"
    before = [(candidate.member, candidate.bytes) for candidate in open_run(run).search.candidates]
    others = (run / "packing" / "frames" / "candidates.json").stat().st_mtime_ns
    document.write_text('{"inputs": "cut')

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(candidates, "_measure_graph", stop)
        with pytest.raises(KeyboardInterrupt):
            open_run(run).search.frontier()
    assert not document.exists()
    assert [(candidate.member, candidate.bytes) for candidate in open_run(run).search.candidates] == before
    assert (run / "packing" / "frames" / "candidates.json").stat().st_mtime_ns == others


def test_a_file_too_large_gives_way_to_the_next_smaller(run: Path, monkeypatch: pytest.MonkeyPatch):
    packer = open_run(run)
    best, following = packer.search.frontier()[-1], packer.search.frontier()[-2]
    write = Packer.write

    def too_large(self, path, ensemble, budget, form):
        if ensemble == best:
            raise BudgetError("some bytes more than they were taken for")
        return write(self, path, ensemble, budget, form)

    monkeypatch.setattr(Packer, "write", too_large)
    told = packer.pack(run / "next.onnx", best.bytes)
    assert [member["name"] for member in told["members"]] == [
        packer.search.candidates[place].member for place in following.candidates
    ]


def test_too_small_a_budget_says_what_the_smallest_file_takes(run: Path):
    smallest = open_run(run).search.frontier()[0].bytes
    with pytest.raises(BudgetError, match=f"smallest possible file takes {smallest:,}"):
        pack(run, "100")
    assert not (run / "packed").exists()


def test_a_file_that_exists_stays(run: Path):
    (run / "packed").mkdir()
    (run / "packed" / "200kB.onnx").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"200kB\.onnx: exists already"):
        pack(run, "200kB")
    assert (run / "packed" / "200kB.onnx").read_bytes() == b"precious"


def test_a_limit_of_time_that_nothing_keeps_is_refused(run: Path):
    with pytest.raises(BudgetError, match="no member takes at most 1e-06 ms per video"):
        pack(run, "200kB", max_ms=1e-6)


def test_what_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"is not a run folder \(it has no recipe\.yaml\)"):
        pack(tmp_path, "1MB")


def test_a_run_without_trained_members_is_named(run: Path):
    shutil.rmtree(run / "members")
    with pytest.raises(ModelFileError, match="has no trained member"):
        pack(run, "1MB")


def test_a_run_without_its_validation_shards_is_named(run: Path):
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("/validation", "/nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        pack(run, "1MB")


def test_a_member_of_another_vocabulary_is_named(run: Path):
    info, tensors, _ = read_member(run / "members" / "frames")
    other = info.model_copy(update={"vocabulary": ("other", *info.vocabulary[1:])})
    save_member(run / "members" / "frames" / "best.safetensors", other, tensors)
    with pytest.raises(ModelFileError, match=r"frames/best\.safetensors: has other features or labels"):
        pack(run, "1MB")


@pytest.mark.parametrize("tensor", ["weights", "biases"])
def test_weights_that_are_no_numbers_are_named(run: Path, tensor: str):
    info, tensors, _ = read_member(run / "members" / "frames")
    name = next(name for name in tensors if tensor in name)
    tensors[name].view(-1)[0] = torch.nan
    save_member(run / "members" / "frames" / "best.safetensors", info, tensors)
    with pytest.raises(ModelFileError, match=rf"frames/best\.safetensors: tensor '{name}' holds NaN or infinity"):
        pack(run, "1MB")
    assert not (run / "packed").exists()


def test_the_frontier_is_measured_on_the_eval_shards(run: Path):
    runs = open_runs([run])
    known = runs.search.frontier()
    document = measure_frontier(runs, (f"{known[0].bytes}", "1GB"))
    assert json.loads((run / "frontier.json").read_text()) == document
    points = document["points"]
    assert [point["bytes"] for point in points] == sorted(point["bytes"] for point in points)
    assert len(points) == 2
    assert not list((run / "packing").glob("*.onnx"))
    # Two members alone, and one and two of them together.
    assert {title: len(points) for title, points in document["baselines"].items()} == {
        "best single 8-bit member": 2,
        "equal-weight 8-bit ensemble": 2,
        "equal-weight fp16 ensemble": 2,
    }
    lines = (run / "frontier.csv").read_text().splitlines()
    assert len(lines) == 1 + len(points) + 6
    assert lines[0] == "curve,bytes,gap,gap_selection,gap_confirmation,members,run,models"
