"""From a folder of videos to labels and a timeline, by the commands that you type."""

import csv
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vidfit as library
from tests.conftest import Call, call
from tests.inference.test_predictor import edited
from tests.videos.making import BLUE, GREEN, RED, by_second, frames_at, plain, small_model, tone, write
from vidfit.errors import ModelFileError, OutputError, VidfitError
from vidfit.evaluation.thresholds import encode
from vidfit.inference.label import Label, LabelledVideo
from vidfit.inference.label_files import write_labels
from vidfit.inference.timeline import Span

COLOURS = {"red": RED, "green": GREEN, "blue & cold": BLUE}
RECIPE = """
data: {train: features/shards/train*, validation: features/shards/validation*, eval: features/shards/eval*,
       vocabulary: features/vocabulary.csv}
training: {steps: 300, batch_size: 16, sample_frames: 4, learning_rate: 0.05, validate_every: 100,
           batch_norm_momentum: 0.1}
members:
  mean: {family: {type: mean}, head: {type: logistic}}
  frames: {family: {type: frame-classifier}}
pack: {budget: 100kB, members: {mean: 1}}
"""
TIME = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `features`, `model.onnx` and `frames.onnx` (which has frame probabilities) trained on them, and
    `new` videos, of which one is broken.
    """
    folder = tmp_path_factory.mktemp("label")
    models = [small_model(folder, "colours", "rgb"), small_model(folder, "bands", "audio")]
    rows = ["path,labels,split"]
    for name, colour in COLOURS.items():
        for clip in range(12):
            shade = np.clip(np.array(colour) + 4 * clip, 0, 255).tolist()
            path = f"{name[:3]}{clip}.mp4"
            write(folder / path, lambda time, shade=shade: plain(shade), frames_at(4, 2), tone(400, 2))
            rows.append(f"{path},{name},{['train', 'train', 'validation', 'eval'][clip % 4]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    features = ["-o", folder / "features", "--image-bytes", "3", "--sound-bytes", "2", "--workers", "1"]
    assert (
        call("extract", folder / "labels.csv", *features, "--image-model", models[0], "--sound-model", models[1]) == 0
    )
    library.run(library.load_recipe(folder / "recipe.yaml"), folder / "run")
    (folder / "model.onnx").write_bytes((folder / "run" / "model.onnx").read_bytes())
    frames = ["-o", folder / "frames.onnx", "--budget", "100kB", "--frame-probabilities"]
    assert call("pack-members", folder / "run" / "members" / "frames", *frames) == 0
    (folder / "new").mkdir()
    halves = by_second(RED, RED, RED, BLUE, BLUE, BLUE)
    write(folder / "new" / "halves.mp4", halves, frames_at(4, 6), tone(400, 6))
    write(folder / "new" / "green.mp4", by_second(GREEN), frames_at(4, 3), tone(400, 3))
    (folder / "new" / "broken.mp4").write_bytes(b"nothing")
    return folder


EXACT = ("--window", "1")


def cues(path: Path) -> list[tuple[float, float, str]]:
    """The cues of a WebVTT file, by the grammar of its specification.

    Source: https://www.w3.org/TR/webvtt1/#file-structure
    """
    header, *blocks = path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    assert header == "WEBVTT"
    found = []
    for block in blocks:
        timing, *lines = block.split("\n")
        start, end = (TIME.fullmatch(part) for part in timing.split(" --> "))
        assert start and end and lines  # noqa: PT018 - for pyright
        assert not any("-->" in line or not line for line in lines)
        assert not re.search(r"<|&(?!amp;|lt;|gt;)", "\n".join(lines))
        first, last = (int(it[1]) * 3600 + int(it[2]) * 60 + int(it[3]) + int(it[4]) / 1000 for it in (start, end))
        assert first < last
        assert not found or found[-1][0] <= first
        found.append((first, last, "\n".join(lines)))
    return found


def test_labels_come_without_pytorch(place: Path):
    code = "import sys; sys.modules['torch'] = None; from vidfit.cli import main; main()"
    arguments = ["label", place / "model.onnx", place / "new" / "green.mp4"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "green" in done.stdout


def test_json_says_what_is_in_each_video_and_when(place: Path, vidfit: Call, tmp_path: Path):
    code, out, err = vidfit("label", place / "model.onnx", place / "new", "-o", tmp_path / "out.json", *EXACT)
    assert code == 3
    assert out == f"{tmp_path / 'out.json'}: 2 videos; 1 failed\n"
    assert str(place / "new" / "broken.mp4") in err
    broken, green, halves = json.loads((tmp_path / "out.json").read_text())
    assert set(broken) == {"path", "duration", "labels", "error"}
    assert (broken["path"], broken["labels"]) == (str(place / "new" / "broken.mp4"), [])
    assert set(green) == {"path", "duration", "labels"}
    assert green["duration"] == pytest.approx(3, abs=0.2)
    (only,) = green["labels"]
    assert set(only) == {"label", "probability", "segments"}
    assert only["label"] == "green"
    assert 0.5 <= only["probability"] <= 1
    when = {it["label"]: it["segments"] for it in halves["labels"]}
    for label, start, end in (("red", 0, 3), ("blue & cold", 3, 6)):
        (segment,) = when[label]
        assert set(segment) == {"start", "end", "confidence"}
        assert segment["start"] == pytest.approx(start, abs=0.2)
        assert segment["end"] == pytest.approx(end, abs=0.2)
        assert 0.3 <= segment["confidence"] <= 1


def test_the_timeline_comes_from_frame_probabilities(place: Path, vidfit: Call, tmp_path: Path):
    video = place / "new" / "halves.mp4"
    code, _, _ = vidfit("label", place / "frames.onnx", video, "-o", tmp_path / "out.json", "--threshold", "0.7")
    assert code == 0
    (halves,) = json.loads((tmp_path / "out.json").read_text())
    found = {it["label"]: [(part["start"], part["end"]) for part in it["segments"]] for it in halves["labels"]}
    assert found == {"red": [(0, 3)], "blue & cold": [(3, pytest.approx(6, abs=0.2))]}


def test_a_window_is_used_where_it_is_asked_for(place: Path):
    (by_frames,), (by_windows,) = (
        library.label(place / "frames.onnx", place / "new" / "halves.mp4", window) for window in (None, 5)
    )
    model = library.load(place / "frames.onnx")
    blue = model.vocabulary.index("blue & cold")
    # Each window of five of the six seconds sees both halves; the first frame sees one.
    assert by_frames.probabilities[0, blue] < 0.3 < 0.6 < by_windows.probabilities[0, blue]


def test_csv_has_a_row_per_interval(place: Path, vidfit: Call, tmp_path: Path):
    code, _, _ = vidfit("label", place / "model.onnx", f"{place}/new/[gh]*.mp4", "-o", tmp_path / "out.csv", *EXACT)
    assert code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "start", "end", "confidence"]
    assert [Path(row["path"]).name for row in rows] == ["green.mp4", "halves.mp4", "halves.mp4"]
    assert {(row["label"], round(float(row["start"]))) for row in rows} == {
        ("green", 0),
        ("red", 0),
        ("blue & cold", 3),
    }


def test_captions_of_one_video_are_a_webvtt_file(place: Path, vidfit: Call, tmp_path: Path):
    video = place / "new" / "halves.mp4"
    code, _, _ = vidfit("label", place / "model.onnx", video, "-o", tmp_path / "out.vtt", *EXACT)
    assert code == 0
    red, blue = cues(tmp_path / "out.vtt")
    assert red == (0, pytest.approx(3, abs=0.01), "red")
    assert blue == (pytest.approx(3, abs=0.01), pytest.approx(6, abs=0.2), "blue &amp; cold")


def test_captions_of_several_videos_are_a_folder(place: Path, vidfit: Call, tmp_path: Path):
    code, out, _ = vidfit("label", place / "model.onnx", place / "new", "-o", tmp_path / "out.vtt", *EXACT)
    assert code == 3
    assert out == f"{tmp_path / 'out.vtt'}/: a folder with one file a video; 1 failed\n"
    assert sorted(path.name for path in (tmp_path / "out.vtt").iterdir()) == ["green.vtt", "halves.vtt"]
    assert [text for _, _, text in cues(tmp_path / "out.vtt" / "green.vtt")] == ["green"]


def test_no_two_videos_share_their_captions(tmp_path: Path):
    places = ("a/b/c.mp4", "a_b/c.mp4", "a_b/c.webm", "a_b_c.mp4.mp4", "C.mp4")
    videos = [LabelledVideo(f"videos/{place}", 1, [Label(place, 0.9, [Span(0, 1, 0.9)])]) for place in places]
    write_labels(tmp_path / "out.vtt", videos)
    found = {path.relative_to(tmp_path / "out.vtt"): path for path in (tmp_path / "out.vtt").rglob("*.vtt")}
    assert {str(path): cues(file)[0][2] for path, file in found.items()} == {f"{place}.vtt": place for place in places}


def test_captions_are_a_whole_folder_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    videos = [LabelledVideo(f"{name}.mp4", 1, [Label("red", 0.9, [Span(0, 1, 0.9)])]) for name in "ab"]
    plainly = Path.write_text

    def full(path: Path, *arguments, **options):
        if path.name == "b.vtt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return plainly(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match=r"out\.vtt: cannot be written .*free some space"):
        write_labels(tmp_path / "out.vtt", videos)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    for _ in range(2):  # into an old folder, too
        write_labels(tmp_path / "out.vtt", videos)
        assert sorted(path.name for path in (tmp_path / "out.vtt").iterdir()) == ["a.vtt", "b.vtt"]


@pytest.mark.parametrize("name", ["out.vtt", "out.json"])
def test_a_bad_place_is_told_before_videos_are_read(
    place: Path, vidfit: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr("vidfit.inference.label.Labeller", lambda *_: pytest.fail("the work was begun"))
    label = ("label", place / "model.onnx", place / "new", "--overwrite", "-o")
    (tmp_path / "file").touch()
    assert vidfit(*label, tmp_path / "file" / name)[0] == 2
    if name == "out.json":
        assert vidfit(*label, tmp_path / "gone" / name)[0] == 2
    else:
        (tmp_path / name).touch()
        assert "is a file, and captions of several videos need a folder" in vidfit(*label, tmp_path / name)[2]


def test_captions_show_all_labels_that_hold_at_once(tmp_path: Path):
    labels = [
        Label("a --> b", 0.9, [Span(0, 3, 0.9)]),
        Label("<c>\nd", 0.8, [Span(2, 5.0003, 0.8)]),
        Label("e", 0.7, [Span(3600, 3725.25, 0.7), Span(4, 5, 0.7)]),
    ]
    write_labels(tmp_path / "x.VTT", [LabelledVideo("x.mp4", 4000, labels)])
    assert cues(tmp_path / "x.VTT") == [
        (0, 2, "a --&gt; b"),
        (2, 3, "a --&gt; b, &lt;c&gt; d"),
        (3, 4, "&lt;c&gt; d"),
        (4, 5, "&lt;c&gt; d, e"),
        (3600, 3725.25, "e"),
    ]


def test_without_output_a_table_is_printed(place: Path, vidfit: Call):
    code, out, err = vidfit("label", place / "model.onnx", place / "new", *EXACT)
    assert code == 3
    assert "broken.mp4" in err
    assert "broken.mp4" not in out
    bars = {name.strip(): bar for name, bar in re.findall(r"^  (.{24}) +[\d.]+% \|(.*)\|$", out, re.MULTILINE)}
    assert set(bars) == {"green", "red", "blue & cold"}
    assert " " not in bars["green"]
    assert bars["red"].strip() == bars["red"].rstrip()
    assert bars["blue & cold"].strip() == bars["blue & cold"].lstrip()
    assert len(bars["red"].strip()) == pytest.approx(len(bars["red"]) / 2, abs=1)


def test_python_labels_a_video_when_asked_for(place: Path):
    found = library.label(place / "model.onnx", place / "new" / "green.mp4", window=1)
    (video,) = found
    assert [label.label for label in video.labels] == ["green"]
    assert video.probabilities.shape == (3, 3)


@pytest.fixture(scope="module")
def own(place: Path) -> Path:
    """A copy of `model.onnx` in which green holds from the highest level on, red from the lowest, blue from 0.5."""
    model = library.load(place / "model.onnx")
    levels = {"green": 254, "red": 0, "blue & cold": 127}

    def change(proto):
        for entry in proto.metadata_props:
            if entry.key == "vidfit.thresholds":
                entry.value = encode(np.array([levels[name] for name in model.vocabulary]))

    return edited(place / "model.onnx", place / "own.onnx", change)


def test_each_label_holds_from_its_own_threshold(place: Path, own: Path):
    (green,) = library.label(own, place / "new" / "green.mp4", window=1)
    assert [label.label for label in green.labels] == ["red"]
    assert green.labels[0].segments
    (all_at_one,) = library.label(own, place / "new" / "green.mp4", window=1, threshold=0.5)
    assert [label.label for label in all_at_one.labels] == ["green"]


def test_a_threshold_given_by_hand_holds_for_all_labels(place: Path, own: Path, vidfit: Call, tmp_path: Path):
    video = place / "new" / "green.mp4"
    given = ("label", own, video, *EXACT, "-o")
    assert vidfit(*given, tmp_path / "own.json")[0] == 0
    assert vidfit(*given, tmp_path / "half.json", "--threshold", "0.5")[0] == 0
    found = [json.loads((tmp_path / name).read_text())[0]["labels"] for name in ("own.json", "half.json")]
    assert [[label["label"] for label in labels] for labels in found] == [["red"], ["green"]]


def test_a_file_without_thresholds_says_so(place: Path, vidfit: Call):
    code, out, err = vidfit("label", place / "frames.onnx", place / "new" / "green.mp4")
    assert (code, err.count("\n")) == (0, 1)
    assert "frames.onnx: has no thresholds, so every label holds from 0.5 on; give --threshold" in err
    assert vidfit("label", place / "frames.onnx", place / "new" / "green.mp4", "--threshold", "0.5")[1:] == (out, "")


def test_an_output_that_exists_is_kept(place: Path, vidfit: Call, tmp_path: Path):
    (tmp_path / "out.json").write_text("mine")
    arguments = ("label", place / "model.onnx", place / "new" / "green.mp4", "-o", tmp_path / "out.json")
    code, _, err = vidfit(*arguments)
    assert (code, (tmp_path / "out.json").read_text()) == (2, "mine")
    assert "exists already" in err
    assert vidfit(*arguments, "--overwrite")[0] == 0
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


def test_the_input_table_is_never_overwritten(place: Path, vidfit: Call):
    table = place / "labels.csv"
    before = table.read_text()
    code, _, err = vidfit("label", place / "model.onnx", table, "-o", table, "--overwrite")
    assert (code, table.read_text()) == (2, before)
    assert "is also the input" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "out.txt"), "out.txt: .txt is no known format; name it .json, .csv, .vtt"),
        (("-o", "gone/out.json"), "there is no folder gone"),
        (("--hop", "9"), "window 5, hop 9: give seconds above 0, and a hop no longer than the window"),
        (("--window", "inf"), "window inf"),
        (("--threshold", "nan"), "threshold nan: give a probability"),
    ],
)
def test_a_wrong_option_is_one_line(place: Path, vidfit: Call, options: tuple[str, str], message: str):
    code, _, err = vidfit("label", place / "model.onnx", place / "new", *options)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_without_pyav_the_error_names_the_extra(place: Path, vidfit: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = vidfit("label", place / "model.onnx", place / "new")
    assert (code, err) == (2, "vidfit: reading videos needs PyAV; install it with: pip install 'vidfit[videos]'\n")
    with pytest.raises(VidfitError, match=r"pip install 'vidfit\[videos\]'"):
        library.label(place / "model.onnx", place / "new")


def test_a_model_of_other_features_cannot_label(place: Path, vidfit: Call, tmp_path: Path):
    def change(model):
        for number, entry in enumerate(model.metadata_props):
            if entry.key == "vidfit.extractor":
                del model.metadata_props[number]
                return

    plain = edited(place / "model.onnx", tmp_path / "plain.onnx", change)
    code, _, err = vidfit("label", plain, place / "new")
    assert code == 2
    assert f"{plain}: does not say how its features were made" in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def others(place: Path) -> Path:
    """Features of the same sizes by another extractor: at two steps a second."""
    models = ("--image-model", place / "colours.onnx", "--sound-model", place / "bands.onnx", "--rate", "2")
    sizes = ("--image-bytes", "3", "--sound-bytes", "2", "--workers", "1")
    (place / "some.csv").write_text("path,labels\nred0.mp4,red\ngre0.mp4,green\nblu0.mp4,blue & cold\n")
    assert call("extract", place / "some.csv", "-o", place / "others", *models, *sizes, "--split", "train=1") == 0
    return place / "others"


def test_features_of_another_extractor_are_refused(place: Path, others: Path, vidfit: Call, tmp_path: Path):
    for arguments in (("evaluate",), ("predict", "-o", tmp_path / "out.csv")):
        code, _, err = vidfit(arguments[0], place / "model.onnx", others / "shards", *arguments[1:])
        assert code == 2
        assert f"{others / 'extractor.json'}: these features were made with colours and bands, 2 a second" in err
        assert "those of the model with colours and bands, 1 a second" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()
    assert vidfit("evaluate", place / "model.onnx", place / "features" / "shards")[0] == 0


def test_a_run_refuses_shards_of_two_extractors(place: Path, others: Path, vidfit: Call, tmp_path: Path):
    recipe = (place / "recipe.yaml").read_text().replace("features/shards/eval*", f"{others}/shards")
    (place / "mixed.yaml").write_text(recipe)
    code, _, err = vidfit("run", place / "mixed.yaml", "-o", tmp_path / "run")
    assert code == 2
    assert "those of data.vocabulary with colours and bands, 1 a second" in err


def test_an_extractor_of_another_version_is_one_line(place: Path, tmp_path: Path):
    def change(model):
        for entry in model.metadata_props:
            if entry.key == "vidfit.extractor":
                entry.value = '{"format": 9}'

    other = edited(place / "model.onnx", tmp_path / "other.onnx", change)
    with pytest.raises(ModelFileError, match="names an extractor that this version cannot read"):
        library.label(other, place / "new")
