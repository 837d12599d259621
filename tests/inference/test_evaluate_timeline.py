"""`evaluate --segments`: the timeline of a model against true intervals, by the command that you type."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import vidfit as library
from tests.conftest import Call, call
from vidfit.evaluation.intervals import IntervalMetrics
from vidfit.features.shards import read_videos
from vidfit.inference.timeline import from_frames, over_steps, spans, windows

LABELS = ("wind", "bell", "a, b")
RECIPE = """
data: {train: train.tfrecord, validation: validation.tfrecord, eval: eval.tfrecord, vocabulary: vocabulary.csv}
training: {steps: 60, batch_size: 16, sampling: none, learning_rate: 0.05, validate_every: 60, batch_norm_momentum: 0.1}
members:
  frames: {family: {type: frame-classifier}}
  mean: {family: {type: mean}, head: {type: logistic}}
pack: {budget: 100kB, members: {frames: 1}, frame_probabilities: true}
"""
VIDEO_LEVEL = """
data: {train: train.tfrecord, validation: validation.tfrecord, eval: eval.tfrecord, vocabulary: vocabulary.csv}
training: {steps: 2, batch_size: 4, learning_rate: 0.05, validate_every: 2}
members:
  mean: {family: {type: mean}, head: {type: logistic}}
pack: {budget: 100kB, members: {mean: 1}}
"""

Rows = list[tuple[str, str, float, float]]


def videos(split: str, count: int, seed: int) -> tuple[list[library.Video], Rows]:
    """Videos of 4 to 12 seconds, and the interval in which the label of each shifts the frames."""
    random = np.random.default_rng(seed)
    made, rows = [], []
    for number in range(count):
        steps, label = int(random.integers(4, 13)), number % len(LABELS)
        start = int(random.integers(steps - 2))
        end = int(random.integers(start + 2, steps + 1))
        frames = random.normal(128, 12, size=(steps, 6))
        frames[start:end, 2 * label : 2 * label + 2] += 70
        id = f"{split}/{number}.mp4"
        made.append(library.Video(id, {"rgb": frames.clip(0, 255).astype(np.uint8)}, np.array([label])))
        rows.append((id, LABELS[label], float(start), float(end)))
    return made, rows


# The intervals of the shards of eval.
ROWS = videos("eval", 30, 2)[1]


def write_table(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "start", "end"), *rows])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, `segments.csv` of those of eval, a run, and `mean.onnx`, which has no frame probabilities."""
    folder = tmp_path_factory.mktemp("timeline")
    for seed, (split, count) in enumerate({"train": 96, "validation": 48, "eval": len(ROWS)}.items()):
        library.write_shard(folder / f"{split}.tfrecord", videos(split, count, seed)[0])
    write_table(folder / "segments.csv", ROWS)
    lines = ["label_id,label_name", *(f'{index},"{name}"' for index, name in enumerate(LABELS))]
    (folder / "vocabulary.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    library.run(library.load_recipe(folder / "recipe.yaml"), folder / "run")
    mean = folder / "run" / "members" / "mean"
    assert call("pack-members", mean, "--budget", "100kB", "-o", folder / "mean.onnx") == 0
    return folder


def expected(
    place: Path, over_time: Callable[[dict[str, np.ndarray]], np.ndarray], threshold: float
) -> IntervalMetrics:
    """The metrics of probabilities over time."""
    with (place / "segments.csv").open(newline="") as file:
        truth = {row["path"]: row for row in csv.DictReader(file)}
    metrics = IntervalMetrics(LABELS)
    for video in read_videos(place / "eval.tfrecord"):
        assert isinstance(video, library.Video)
        found_TC, row = over_time(video.frames), truth[video.id]
        found = [[it[:2] for it in spans(column_T, threshold, 1, len(found_TC))] for column_T in found_TC.T]
        metrics.update(found_TC, 1, {LABELS.index(row["label"]): [(float(row["start"]), float(row["end"]))]}, found)
    return metrics


@pytest.mark.parametrize("form", ["run/model.onnx", "run/members/frames"])
def test_frame_probabilities_are_measured(place: Path, vidfit: Call, tmp_path: Path, form: str):
    arguments = ("evaluate", place / form, place / "eval.tfrecord", "--segments", place / "segments.csv")
    code, out, err = vidfit(*arguments, "--threshold", "0.4", "--json", tmp_path / "it.json")
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "it.json").read_text())
    model = library.load(place / form)

    def over_time(frames: dict[str, np.ndarray]) -> np.ndarray:
        video = {"rgb": frames["rgb"][None]}
        return from_frames(model.predict_frames(video)[0], model.predict(video)[0], 1)

    told = expected(place, over_time, 0.4).result()
    assert (result["timeline"], result["threshold"], result["videos"]) == ("frame probabilities", 0.4, 30)
    for name in ("timeline_map", "timeline_overlap"):
        assert result[name] == pytest.approx(told[name], abs=1e-5)
        assert f"{name} " in out
        assert f" {told[name]:.4f}" in out
    assert result["timeline_map"] > 0.9
    assert result["labels"] == [
        {name: value if isinstance(value, str) else pytest.approx(value, abs=1e-5) for name, value in label.items()}
        for label in told["labels"]
    ]
    assert out.splitlines()[0].split() == ["label", "seconds", "average", "precision", "overlap"]
    assert out.splitlines()[3].startswith("a, b ")


@pytest.mark.parametrize("form", ["mean.onnx", "run/members/mean", "run/model.onnx"])
def test_windows_are_measured(place: Path, vidfit: Call, tmp_path: Path, form: str):
    asked = ("--window", "3", "--hop", "2") if form == "run/model.onnx" else ()
    length, hop = (3, 2) if asked else (5, 1)
    arguments = ("evaluate", place / form, place / "eval.tfrecord", "--segments", place / "segments.csv", *asked)
    code, out, _ = vidfit(*arguments, "--json", tmp_path / "it.json")
    assert code == 0
    assert f"windows of {length} s, one every {hop} s" in out
    result = json.loads((tmp_path / "it.json").read_text())
    model = library.load(place / form)

    def over_time(frames: dict[str, np.ndarray]) -> np.ndarray:
        steps = len(frames["rgb"])
        parts = windows(steps, length, hop)
        found = [model.predict({"rgb": frames["rgb"][None, part]})[0] for part in parts]
        return over_steps(np.stack(found), parts, steps)

    told = expected(place, over_time, 0.5).result()
    for name in ("timeline_map", "timeline_overlap"):
        assert result[name] == pytest.approx(told[name], abs=1e-5)


def test_a_table_may_have_videos_of_other_shards(place: Path, vidfit: Call, tmp_path: Path):
    table = write_table(tmp_path / "all.csv", [*ROWS, ("train/0.mp4", "bell", 0, 1), (ROWS[0][0], "bell", 90, 91)])
    arguments = ("evaluate", place / "run/model.onnx", place / "eval.tfrecord", "--segments")
    code, out, err = vidfit(*arguments, table)
    assert code == 0
    assert "1 of 31 videos in" in err
    assert "such as 'train/0.mp4', are not in these shards" in err
    assert "1 intervals begin after the end of their video" in err
    plain = vidfit(*arguments, place / "segments.csv")[1]
    assert [line for line in out.splitlines() if "map" in line] == [
        line for line in plain.splitlines() if "map" in line
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[1:], "segments.csv: has no row for video 'eval/0.mp4', which has labels in the shards; add its rows"),
        ([("x.mp4", "bell", 0, 1)], "add its rows (its paths, such as 'x.mp4', must be ids of videos)"),
        ([*ROWS, ("eval/0.mp4", "bel", 0, 1)], "eval/0.mp4 has label 'bel', which is not in the vocabulary"),
        ([*ROWS, ("eval/0.mp4", "bell", 3, 2)], "segments.csv, line 32: start 3 and end 2 are no interval"),
        ([*ROWS, ("eval/0.mp4", "bell", "a", 2)], "segments.csv, line 32: start 'a' and end '2' are no seconds"),
        ([*ROWS, ("eval/0.mp4", "bell", "", "")], "eval/0.mp4 has 'bell' without an interval; give its start and end"),
        ([(id, label, 0.6, 1.4) for id, label, _, _ in ROWS], "no interval covers the middle of a second"),
        ([], "segments.csv: has no rows"),
    ],
)
def test_a_wrong_table_is_one_line(place: Path, vidfit: Call, tmp_path: Path, rows: Rows, message: str):
    table = write_table(tmp_path / "segments.csv", rows)
    arguments = ("evaluate", place / "run/model.onnx", place / "eval.tfrecord", "--segments", table)
    code, _, err = vidfit(*arguments, "--json", tmp_path / "it.json")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "it.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--window", "2"),
            "--window, --hop and --threshold are for a timeline; give the true intervals with --segments",
        ),
        (("--threshold", "0.5"), "give the true intervals with --segments"),
        (("--segments", "{}", "--fill-up", "30"), "--unlabelled and --fill-up have no meaning for a timeline"),
        (("--segments", "{}", "--unlabelled", "keep"), "--unlabelled and --fill-up have no meaning for a timeline"),
        (("--segments", "{}", "--window", "0"), "window 0, hop 1: give seconds above 0"),
        (("--segments", "gone.csv"), "gone.csv: does not exist"),
    ],
)
def test_wrong_options_are_one_line(place: Path, vidfit: Call, options: tuple[str, ...], message: str):
    given = [option.format(place / "segments.csv") for option in options]
    code, _, err = vidfit("evaluate", place / "run/model.onnx", place / "eval.tfrecord", *given)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_video_twice_in_the_shards_is_refused(place: Path, vidfit: Call, tmp_path: Path):
    (tmp_path / "again.tfrecord").write_bytes((place / "eval.tfrecord").read_bytes())
    shards = (place / "eval.tfrecord", tmp_path / "again.tfrecord")
    code, _, err = vidfit("evaluate", place / "mean.onnx", *shards, "--segments", place / "segments.csv")
    assert code == 2
    assert "video 'eval/0.mp4' is in the shards twice" in err


def test_a_corrupt_record_is_skipped_on_request(place: Path, vidfit: Call, tmp_path: Path):
    content = bytearray((place / "eval.tfrecord").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.tfrecord").write_bytes(content)
    arguments = ("evaluate", place / "mean.onnx", tmp_path / "bad.tfrecord", "--segments", place / "segments.csv")
    assert vidfit(*arguments)[0] == 2
    code, out, err = vidfit(*arguments, "--skip-corrupt")
    assert code == 0
    assert "1 corrupt record" in err
    assert "1 of 30 videos" in err
    assert "videos           29" in out


def test_python_gives_what_the_command_prints(place: Path):
    given = (place / "run/model.onnx", place / "eval.tfrecord", place / "segments.csv")
    seen = []
    found = library.evaluate_timeline(*given, threshold=0.3, on_progress=lambda progress: seen.append(progress.done))
    assert (found["threshold"], found["videos"], seen) == (0.3, 30, list(range(1, 31)))


def test_a_model_of_whole_videos_has_no_timeline(place: Path, vidfit: Call, tmp_path: Path):
    random = np.random.default_rng(1)
    for split in ("train", "validation", "eval"):
        features = random.normal(size=(12, 1, 4)).astype(np.float32)
        made = [library.Video(f"{split}{it}", {"mean": features[it]}, np.array([it % 3])) for it in range(12)]
        library.write_shard(tmp_path / f"{split}.tfrecord", made)
    (tmp_path / "vocabulary.csv").write_text((place / "vocabulary.csv").read_text())
    (tmp_path / "recipe.yaml").write_text(VIDEO_LEVEL)
    assert vidfit("train", tmp_path / "recipe.yaml", "-o", tmp_path / "run")[0] == 0
    member = tmp_path / "run" / "members" / "mean"
    code, _, err = vidfit("evaluate", member, tmp_path / "eval.tfrecord", "--segments", place / "segments.csv")
    assert code == 2
    assert "reads one frame per video, so it has no timeline" in err
