"""The page: every section, whatever the run has; in a real browser, on a phone and on a desk."""

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest

from tests.browser import Page, browser
from tests.report.conftest import FRONTIER, change, section, words
from vidfit.errors import OutputError
from vidfit.report.packed import PackedDetails, read_packed
from vidfit.report.page import write_report
from vidfit.sizes import format_gain

PHONE = "<!DOCTYPE html><meta name='viewport' content='width=device-width'>"
SECTIONS = [
    "The packed file",
    "Training curves",
    "What each method gained",
    "Score by size",
    "What takes the bytes",
    "Best and worst labels",
    "Are the probabilities right?",
    "The recipe",
]


def test_a_run_leaves_its_report(finished: Path):
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", text) == SECTIONS
    packed = json.loads((finished / "summary.json").read_text())["packed"]
    assert f"GAP {packed['gap']:.4f}" in words(section(finished / "report.html", SECTIONS[0]))
    assert "vidfit frontier" in section(finished / "report.html", "Score by size")
    composition = words(section(finished / "report.html", "What takes the bytes"))
    for member in packed["members"]:
        for tensor in member["tensors"]:
            assert f"{tensor['name']} {' x '.join(map(str, tensor['shape']))} 8" in composition


def test_nothing_comes_from_elsewhere(full: Path):
    text = write_report(full).read_text(encoding="utf-8")
    assert not re.findall(r"<script|https?:|url\(|@import|src=", text)


def test_a_folder_that_has_only_begun(folder: Path):
    for name in ("summary.json", "labels.json"):
        (folder / name).unlink()
    for log in folder.rglob("log.jsonl"):
        log.unlink()
    page = write_report(folder)
    assert re.findall("<h2>(.*?)</h2>", page.read_text()) == [SECTIONS[0], SECTIONS[-1]]
    assert "Give the same vidfit run command again" in words(section(page, SECTIONS[0]))


def test_a_run_without_validation_and_eval_shards(unmeasured: Path):
    page = write_report(unmeasured)
    text = page.read_text()
    assert text.count("No eval videos were given. Name some under <code>data.eval</code> in the recipe.") == 1
    assert re.findall("<h2>(.*?)</h2>", text) == [*SECTIONS[:2], "What takes the bytes", "The recipe"]
    assert 'class="missing"' not in text
    assert "validation" not in section(page, "Training curves")


def test_levers_have_signs(full: Path):
    summary = json.loads((full / "summary.json").read_text())
    vlad, lstm = summary["members"][1:]
    said = words(section(write_report(full), "What each method gained"))
    assert f"vlad 0.2500 {vlad['gap_validation']:.4f} {vlad['gap_validation'] - 0.25:+.4f}" in said
    log = [json.loads(line) for line in (full / "members" / "lstm" / "log.jsonl").read_text().splitlines()]
    before = max(line["gap"] for line in log[:-1])
    assert f"lstm {before:.4f} {lstm['gap_validation']:.4f} {format_gain(before, lstm['gap_validation'])}" in said
    assert f"lstm {lstm['gap']:.4f} {lstm['gap_quantized']:.4f}" in said
    best = max(vlad, lstm, key=lambda member: member["gap_quantized"])
    gap = summary["packed"]["gap"]
    assert f"{best['name']} {best['gap_quantized']:.4f} {gap:.4f} {format_gain(best['gap_quantized'], gap)}" in said


def test_levers_that_a_recipe_does_without(folder: Path):
    said = words(section(write_report(folder), "What each method gained"))
    assert "Averaging members" in said
    assert "Distillation" not in said
    assert "Averaging of weights" not in said


def test_curves_have_teachers_and_averaged_weights(full: Path):
    said = section(write_report(full), "Training curves")
    assert "<title>vlad, generation 0</title>" in said
    assert "lstm, averaged: 24, " in said
    assert "Dashed: " in said
    assert "Dots: " in said


def test_the_frontier_beside_its_baselines(full: Path):
    said = section(write_report(full), "Score by size")
    for name in FRONTIER["baselines"]:
        assert name in said
    assert "vidfit: 50 kB, 0.5" in said
    assert "vidfit, on validation: 120 kB, 0.48" in said
    assert "GAP on the eval videos. Points “on validation” show" in said
    assert "120.0 kB 0.4800 4.5 bits · 100%" in words(said)
    assert "400.0 kB 0.6200 0.4800 4.5 bits · 50% 4.5 bits · 50%" in words(said)
    assert "0.1" not in re.findall("best single 8-bit member: (.*?), (.*?)<", said)


def test_the_frontier_without_a_gap_of_the_eval_shards(full: Path):
    points = [point | {"gap": None} for point in FRONTIER["points"]]
    change(full / "frontier.json", "points", points)
    said = section(write_report(full), "Score by size")
    assert "vidfit, on validation: 400 kB, 0.48" in said
    assert "<figcaption>GAP on the eval videos. Points" in said  # of the baselines
    change(full / "frontier.json", "baselines", {})
    assert "<figcaption>Points “on validation” show" in section(write_report(full), "Score by size")


def test_tensors_of_the_file(full: Path):
    said = words(section(write_report(full), "What takes the bytes"))
    size = json.loads((full / "summary.json").read_text())["packed"]["bytes"]
    assert "vlad netvlad 0.667 4.6 30.0 kB " + f"{30_000 / size:.1%}" in said
    assert "family.hidden.weight 640 x 32 4/64 11.5 kB" in said
    assert f"members 60.0 kB, graph and metadata {(size - 60_000) / 1000:.1f} kB." in said
    assert "vlad: 1 tensor family" in said or "vlad: 1 tensor tensor" in said


def test_labels_best_first_and_worst_first(folder: Path):
    labels = [{"name": f"label {i}", "positives": i, "average_precision": i / 100} for i in range(1, 41)]
    unseen = {"name": "unseen", "positives": 0, "average_precision": None}
    change(folder / "labels.json", "labels", [*labels, unseen])
    said = words(section(write_report(folder), "Best and worst labels"))
    best, worst = said.split("Worst 15")
    assert re.findall(r"label (\d+)", best.split("Best 15")[1]) == [str(i) for i in range(40, 25, -1)]
    assert re.findall(r"label (\d+)", worst) == [str(i) for i in range(1, 16)]
    assert "the mAP, 0.2050. 1 more label without eval videos is not shown." in said


def test_labels_show_their_decisions(folder: Path):
    label = {"name": "rain", "positives": 8, "average_precision": 0.5}
    decided = label | {"name": "snow", "threshold": 0.25, "precision": None, "recall": 0.125}
    change(folder / "labels.json", "labels", [label, decided])
    said = words(section(write_report(folder), "Best and worst labels"))
    assert "label videos AP precision recall threshold" in said
    assert re.search(r"rain 8 0\.500 - - -", said)
    assert re.search(r"snow 8 0\.500 - 0\.125 0\.250", said)


def test_scores_of_decisions_are_shown_if_known(folder: Path):
    packed = json.loads((folder / "summary.json").read_text())["packed"]
    packed |= {"accuracy": 0.8125, "top_5_accuracy": 0.9375, "micro_f1": 0.4375}
    change(folder / "summary.json", "packed", {key: it for key, it in packed.items() if key != "macro_f1"})
    said = words(section(write_report(folder), "The packed file"))
    assert "accuracy 0.8125" in said
    assert "top-5 accuracy 0.9375" in said
    assert "micro F1 0.4375" in said
    assert "macro F1" not in said


def test_the_calibration_in_numbers(folder: Path):
    change(folder / "labels.json", "ece", 0.01234)
    change(folder / "labels.json", "reliability", [{"low": 0.1, "high": 0.2, "mean": 0.15, "hits": 1, "count": 8}])
    said = words(section(write_report(folder), "Are the probabilities right?"))
    assert "Expected calibration error: 0.01234" in said
    assert "0.1 to 0.2 0.1500 0.1250 1 8" in said


def test_names_are_text(full: Path):
    evil = "</style></svg><script>alert(1)</script> & co"
    summary = (full / "summary.json").read_text()
    (full / "summary.json").write_text(summary.replace('"vlad"', json.dumps(evil)))
    labels = [{"name": evil, "positives": 2, "average_precision": 0.5}]
    change(full / "labels.json", "labels", labels)
    text = write_report(full).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count(escape(evil, quote=False)) > 5


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(OutputError, match=r"is not a run folder .*recipe\.yaml"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "labels.json", "frontier.json", "members/vlad/log.jsonl"])
def test_a_file_that_cannot_be_read(folder: Path, name: str):
    before = (folder / "report.html").read_bytes()
    (folder / name).write_text('{"points": 3}')
    with pytest.raises(OutputError, match=rf"{re.escape(name)}: cannot be read \(.+\); remove it"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page of a browser."""
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("width", [375, 1100])
@pytest.mark.parametrize("which", ["finished", "full"])
def test_in_a_browser(which: str, width: int, request: pytest.FixtureRequest, page: Page):
    folder: Path = request.getfixturevalue(which)
    page.open(folder / "report.html" if which == "finished" else write_report(folder), width)
    assert page.evaluate("[...document.querySelectorAll('h2')].map(title => title.textContent)") == SECTIONS
    assert page.evaluate("document.compatMode") == "CSS1Compat"
    # All that is folded may be opened.
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    plots = "[...document.querySelectorAll('svg.plot')].map(plot => plot.getBoundingClientRect().width)"
    assert min(page.evaluate(plots)) > 250
    texts = "[...document.querySelectorAll('svg.plot text')].map(text => text.getBoundingClientRect().height)"
    assert min(page.evaluate(texts)) > 8
    assert page.errors == []


def test_the_browser_tells_of_errors_and_of_what_is_too_wide(page: Page, tmp_path: Path):
    file = tmp_path / "broken.html"
    file.write_text(PHONE + "<div style='width:500px'>x</div><img src='nothing.png'><script>nothing()</script>")
    page.open(file, 375)
    assert page.evaluate("document.documentElement.scrollWidth") >= 500
    assert any("ERR_FILE_NOT_FOUND" in error for error in page.errors)
    assert any("Uncaught" in error for error in page.errors)


def test_a_carried_extractor_has_its_bytes(unmeasured: Path, monkeypatch: pytest.MonkeyPatch):
    details = PackedDetails({"pictures": 4_000_000, "sounds": 3_500_000}, {"rain": 0.25, "snow": 0.5})
    monkeypatch.setattr("vidfit.report.folder.read_packed", lambda path: details)
    packed = json.loads((unmeasured / "summary.json").read_text())["packed"]
    member = packed["members"][0] | {"bytes": 30_000, "bits": 32, "tensors": []}
    change(unmeasured / "summary.json", "packed", packed | {"bytes": 7_540_000, "members": [member]})
    page = write_report(unmeasured)
    said = words(section(page, "What takes the bytes"))
    assert "Models for pictures 4.0 MB, for sounds 3.5 MB, members 30.0 kB, graph and metadata 10.0 kB." in said
    assert "netvlad 32 30.0 kB" in said or "mean 32 30.0 kB" in said
    assert "weight" not in said  # it is alone
    assert "from 0.250 to 0.500" in words(section(page, "Thresholds"))


def test_thresholds_of_the_file_itself(finished: Path):
    details = read_packed(finished / "model.onnx")
    assert details is not None
    labels = json.loads((finished / "labels.json").read_text())["labels"]
    assert details.thresholds == pytest.approx({label["name"]: label["threshold"] for label in labels})
    assert details.extractor_bytes == {}


def test_videos_and_rare_labels_are_counted(folder: Path):
    data = {"videos": {"train": 1_200, "validation": 0, "eval": 300}, "labels": 20, "rare": 3}
    change(folder / "summary.json", "data", data)
    said = words(section(write_report(folder), "The packed file"))
    assert "videos 1,200 to learn from, 300 for eval labels 20 3 with fewer than 10 videos" in said


def test_a_fit_names_labels_with_few_videos_and_the_next_command(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "fit.json").write_text('{"tried": {}}')
    data = {"videos": {"train": 1_200}, "labels": 20, "rare": 3, "rare_labels": ["rain", "snow"]}
    change(folder / "summary.json", "data", data)
    for of_videos, command in (
        (True, f"vidfit label {folder}/model.onnx"),
        (False, f"vidfit predict {folder}/model.onnx"),
    ):
        details = PackedDetails({}, {"rain": 0.25, "snow": 0.5}, of_videos)
        monkeypatch.setattr("vidfit.report.folder.read_packed", lambda path, details=details: details)
        said = words(section(write_report(folder), "The packed file"))
        assert f"To use it: {command}" in said
        assert "more videos of the 3 labels with fewer than 10 (rain, snow, ...)" in said
        assert "--precision" in said


def test_the_recipe_is_shown_without_rounding_errors(folder: Path):
    (folder / "recipe.yaml").write_text("weight: 0.9999999999999999\nrate: 0.002\nname: 1.00000001.onnx\n")
    assert "weight: 1.0\nrate: 0.002\nname: 1.00000001.onnx" in section(write_report(folder), "The recipe")
