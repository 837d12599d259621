"""`predict --segments` and `evaluate --segments rated`, by the commands that you type."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import vidfit as library
from tests.conftest import Call
from tests.inference.test_evaluate_timeline import LABELS, place, videos  # noqa: F401 - a fixture
from vidfit.evaluation.intervals import over_segments
from vidfit.inference.timeline import from_frames, over_steps, windows

Ranked = dict[int, list[str]]


def rated_videos() -> list[library.Video]:
    """Those of eval, with every label rated in the first segment and in others that are not on the grid or too late."""
    made, rows = videos("eval", 30, 2)
    for number, (video, (_, label, start, end)) in enumerate(zip(made, rows, strict=True)):
        video.id = f"v{number}"
        holds = [float(LABELS[index] == label and start <= 2.5 < end) for index in range(3)]
        starts = [0, 0, 0] + ([3, 90] if number == 0 else [])
        video.segments = library.RatedSegments(
            np.array(starts), np.array(starts) + 5, np.array([0, 1, 2, 1, 1][: len(starts)]),
            np.array([*holds, 0, 1][: len(starts)], np.float32),
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rated") / "rated.tfrecord"
    library.write_shard(path, rated_videos())
    return path


def segment_probabilities(model: library.Predictor, form: str) -> dict[str, float | np.ndarray]:
    """By segment id `[C]`, from the definition: frame by frame, or window by window."""
    found = {}
    for video in rated_videos():
        frames_TD = video.frames["rgb"]
        if form == "mean.onnx":
            parts = windows(len(frames_TD), 5, 1)
            each_WC = np.stack([model.predict({"rgb": frames_TD[None, part]})[0] for part in parts])
            over_time_TC = over_steps(each_WC, parts, len(frames_TD))
        else:
            whole = {"rgb": frames_TD[None]}
            over_time_TC = from_frames(model.predict_frames(whole)[0], model.predict(whole)[0], 1)
        for start in range(0, len(frames_TD), 5):
            found[f"{video.id}:{start}"] = over_time_TC[start : start + 5].mean(axis=0)
    return found


def read(path: Path) -> Ranked:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Class", "Segments"]
    return {int(label): ids.split(" ") for label, ids in rows}


@pytest.mark.parametrize("form", ["run/model.onnx", "run/members/frames", "mean.onnx"])
def test_the_file_has_every_segment_best_first(place: Path, vidfit: Call, tmp_path: Path, shard: Path, form: str):  # noqa: F811
    code, out, err = vidfit("predict", place / form, shard, "--segments", "-o", tmp_path / "it.csv")
    assert (code, err) == (0, "")
    ranked, expected = read(tmp_path / "it.csv"), segment_probabilities(library.load(place / form), form)
    assert f"{len(expected)} segments of 30 videos, 3 labels" in out
    assert list(ranked) == [0, 1, 2]
    for label, ids in ranked.items():
        assert sorted(ids) == sorted(expected)
        scores = [expected[id][label] for id in ids]  # type: ignore[index]
        assert all(one >= other - 1e-6 for one, other in pairwise(scores))


def test_top_k_and_classes_choose_what_is_written(place: Path, vidfit: Call, tmp_path: Path, shard: Path):  # noqa: F811
    (tmp_path / "labels.csv").write_text("Index\n2\n0\n")
    asked = ("predict", place / "mean.onnx", shard, "--segments")
    assert vidfit(*asked, "-o", tmp_path / "all.csv")[0] == 0
    code, out, _ = vidfit(*asked, "-o", tmp_path / "some.csv", "--top-k", 4, "--classes", tmp_path / "labels.csv")
    assert code == 0
    assert "2 labels" in out
    every = read(tmp_path / "all.csv")
    assert read(tmp_path / "some.csv") == {label: every[label][:4] for label in (0, 2)}


def official(ranked: Ranked, labels: dict[tuple[str, int], float]) -> float:
    """As the official program reads a file: rated ones of the list, over all positives."""
    precisions = []
    for label, ids in ranked.items():
        kept = [labels[id, label] > 0 for id in ids if (id, label) in labels]
        positives = sum(score > 0 for (_, own), score in labels.items() if own == label)
        precisions.append(sum(sum(kept[: rank + 1]) / (rank + 1) for rank in np.flatnonzero(kept)) / positives)
    return float(np.mean(precisions))


@pytest.mark.parametrize("form", ["run/model.onnx", "mean.onnx"])
def test_map_at_k_is_that_of_the_file_written(place: Path, vidfit: Call, tmp_path: Path, shard: Path, form: str):  # noqa: F811
    assert vidfit("predict", place / form, shard, "--segments", "-o", tmp_path / "it.csv")[0] == 0
    labels = {
        (f"{video.id}:{start}", label): score
        for video in rated_videos()
        for start, label, score in zip(
            *(getattr(video.segments, name).tolist() for name in ("starts", "labels", "scores")), strict=True
        )
    }
    code, out, err = vidfit("evaluate", place / form, shard, "--segments", "rated", "--json", tmp_path / "it.json")
    assert code == 0
    assert "2 ratings are of segments that do not start at 0, 5, 10" in err
    result = json.loads((tmp_path / "it.json").read_text())
    expected = official(read(tmp_path / "it.csv"), labels)
    assert result["map_at_k"] == pytest.approx(expected, abs=1e-9)
    assert 0.5 < expected < 1
    assert (result["videos"], result["k"]) == (30, 100_000)
    assert f"map_at_k         {expected:.4f}" in out
    assert out.splitlines()[0].split() == ["label", "rated", "positive", "average", "precision"]
    assert library.evaluate_segments(place / form, shard)["map_at_k"] == result["map_at_k"]


def test_intervals_of_ones_own_give_map_at_k_as_well(place: Path, vidfit: Call, tmp_path: Path):  # noqa: F811
    arguments = ("evaluate", place / "mean.onnx", place / "eval.tfrecord", "--segments", place / "segments.csv")
    code, _, _ = vidfit(*arguments, "--json", tmp_path / "it.json")
    assert code == 0
    model, labels, ranked = library.load(place / "mean.onnx"), {}, {label: [] for label in range(3)}
    for video, (id, own, first, last) in zip(*videos("eval", 30, 2), strict=True):
        frames_TD = video.frames["rgb"]
        parts = windows(len(frames_TD), 5, 1)
        each_WC = np.stack([model.predict({"rgb": frames_TD[None, part]})[0] for part in parts])
        for number, row_C in enumerate(over_segments(over_steps(each_WC, parts, len(frames_TD)), 1)):
            start = 5 * number
            for label in range(3):
                labels[f"{id}:{start}", label] = float(LABELS[label] == own and first <= start + 2.5 < last)
                ranked[label].append((float(row_C[label]), f"{id}:{start}"))
    best = {label: [id for _, id in sorted(rows, key=lambda row: -row[0])] for label, rows in ranked.items()}
    assert json.loads((tmp_path / "it.json").read_text())["map_at_k"] == pytest.approx(official(best, labels), abs=1e-6)


def test_the_last_segment_has_the_mean_of_what_there_is():
    values_TC = np.arange(12, dtype=np.float32)[:, None]
    assert over_segments(values_TC, 1)[:, 0].tolist() == [2, 7, 10.5]
    assert over_segments(values_TC, 2)[:, 0].tolist() == [4.5, 10.5]
    assert over_segments(values_TC, 0.1)[:, 0].tolist() == [number // 2 for number in range(24)]
    assert len(over_segments(np.zeros((3, 1), np.float32), 0.2)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "{shard}", "-o", "{out}", "--window", 3), "--classes, --window and --hop are for segments"),
        (("predict", "{shard}", "-o", "{out}", "--segments", "--fill-up", 3), "--fill-up has no meaning for segments"),
        (("predict", "{shard}", "-o", "{out}.jsonl", "--segments"), "segments are written as .csv only"),
        (("predict", "{spaced}", "-o", "{out}", "--segments"), "video 'a b': its id has a space"),
        (("predict", "{shard}", "-o", "{shard}.csv", "--segments"), "exists already"),
        (("predict", "{shard}", "-o", "{out}", "--segments", "--classes", "{labels}"), "line 3: index 3 is outside"),
        (("predict", "{shard}", "-o", "{out}", "--segments", "--classes", "{shard}"), "cannot be read"),
        (("evaluate", "{spaced}", "--segments", "rated"), "none of the 1 videos has a rated segment in which"),
        (("evaluate", "{shard}", "--segments", "rated", "--threshold", 0.3), "--threshold has no meaning"),
        (("evaluate", "{twice}", "--segments", "rated"), "video 'a b' is in the shards twice; give each once"),
    ],
)
def test_mistakes_are_one_line(
    place: Path,  # noqa: F811
    vidfit: Call,
    tmp_path: Path,
    shard: Path,
    arguments: tuple[object, ...],
    message: str,
):
    one = library.Video("a b", {"rgb": np.zeros((3, 6), np.uint8)}, np.array([0]))
    library.write_shard(tmp_path / "spaced.tfrecord", [one])
    library.write_shard(tmp_path / "twice.tfrecord", [one, one])
    (tmp_path / "copy.tfrecord").write_bytes(shard.read_bytes())
    (tmp_path / "copy.tfrecord.csv").touch()
    (tmp_path / "labels.csv").write_text("Index\n2\n3\n")
    names = {
        "shard": tmp_path / "copy.tfrecord", "spaced": tmp_path / "spaced.tfrecord",
        "twice": tmp_path / "twice.tfrecord", "out": tmp_path / "it.csv", "labels": tmp_path / "labels.csv",
    }  # fmt: skip
    verb, *rest = (str(argument).format(**names) for argument in arguments)
    code, _, err = vidfit(verb, place / "mean.onnx", *rest)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "it.csv").exists()
