"""The page's own timeline and files, under Node, against Python's."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.export.web_node import Node, needs_node
from vidfit.inference import timeline
from vidfit.inference.label import Label, LabelledVideo
from vidfit.inference.label_files import write_labels

pytestmark = needs_node


@pytest.mark.parametrize(("steps", "rate"), [(1, 1), (2, 0.01), (40, 1), (40, 2.5)])
def test_steps_from_frames_are_those_of_python(node: Node, steps: int, rate: float, random: np.random.Generator):
    frames = random.choice([0.0, 0.2, 0.7, 1.0], size=(steps, 3)).astype(np.float32)
    video = random.uniform(size=3).astype(np.float32)
    call = "page.fromFrames(Float32Array.from(it.frames), Float32Array.from(it.video), it.rate)"
    found = node("timeline.js", call, frames=frames.ravel().tolist(), video=video.tolist(), rate=rate)
    np.testing.assert_allclose(np.reshape(found, (steps, 3)), timeline.from_frames(frames, video, rate), atol=1e-6)


@pytest.mark.parametrize(("steps", "length", "hop"), [(3, 5, 1), (5, 5, 1), (12, 5, 1), (23, 10, 4), (24, 10, 7)])
def test_windows_are_those_of_python(node: Node, steps: int, length: int, hop: int, random: np.random.Generator):
    stretches = timeline.windows(steps, length, hop)
    starts = node("timeline.js", "page.windowStarts(it.steps, it.length, it.hop)", steps=steps, length=length, hop=hop)
    assert starts == [stretch.start for stretch in stretches]

    found = random.uniform(size=(len(starts), 2)).astype(np.float32)
    call = "page.overSteps(Float32Array.from(it.found), it.starts, it.length, it.steps)"
    given = {"found": found.ravel().tolist(), "starts": starts, "length": min(length, steps), "steps": steps}
    over_steps = np.reshape(node("timeline.js", call, **given), (steps, 2))
    np.testing.assert_allclose(over_steps, timeline.over_steps(found, stretches, steps), atol=1e-6)


@pytest.mark.parametrize("rate", [1.0, 0.5, 2.5])
def test_intervals_are_those_of_python(node: Node, rate: float, random: np.random.Generator):
    # Steps on the very edges of the hysteresis, too.
    edges = [0.0, 0.3, np.float32(0.6 * 0.5), 0.5, 0.9]
    columns = random.choice(edges, size=(60, 25)).astype(np.float32)
    thresholds = [0.5, float(np.float32(0.21)), 0.9]
    duration = 25 / rate - 0.3
    call = "it.columns.flatMap(c => it.thresholds.map(t => page.spans(Float32Array.from(c), t, it.rate, it.duration)))"
    given = {"columns": columns.tolist(), "thresholds": thresholds, "rate": rate, "duration": duration}
    found = node("timeline.js", call, **given)
    expected = [timeline.spans(column, threshold, rate, duration) for column in columns for threshold in thresholds]
    assert [len(spans) for spans in found] == [len(spans) for spans in expected]
    assert sum(map(len, expected)) > 100
    for one, other in zip(found, expected, strict=True):
        values = [[span["start"], span["end"], span["confidence"]] for span in one]
        np.testing.assert_allclose(values, [list(span) for span in other], atol=1e-6)


def test_a_label_holds_by_its_own_threshold_in_order_of_probability(node: Node):
    model = {"vocabulary": ["dog", "cat", "rain", "sea"], "thresholds": [0.5, 0.2, 0.9, 0.1], "rate": 1}
    video = [0.4, 0.25, 0.95, 0.05]
    steps = [[0.1, 0.1, 0.1, 0.2], [0.1, 0.1, 0.95, 0.05]]
    call = "page.labelsOf(Float32Array.from(it.video), Float32Array.from(it.steps.flat()), it.model, 1.6)"
    found = node("timeline.js", call, video=video, steps=steps, model=model)
    # The sea is seen for a second although the whole video is not of it; the cat holds, but at no time.
    assert [label["label"] for label in found] == ["rain", "cat", "sea"]
    segments = [[(span["start"], span["end"]) for span in label["segments"]] for label in found]
    assert segments == [[(1, 1.6)], [], [(0, 1)]]


VIDEO = LabelledVideo(
    "a, b.mp4",
    duration=12.3456,
    labels=[
        Label('dog, "big"', 0.987654321, [timeline.Span(0.0, 3.0, 0.91), timeline.Span(5.0, 12.3456, 0.5)]),
        Label("rain & <wind>", 0.25, [timeline.Span(2.0, 6.0, 0.123456789)]),
        Label("déjà vu", 0.2, []),
    ],
    notes=["No sound was found."],
)
OBJECT = {
    "path": VIDEO.path,
    "duration": VIDEO.duration,
    "labels": [
        {"label": it.label, "probability": it.probability, "segments": [span._asdict() for span in it.segments]}
        for it in VIDEO.labels
    ],
    "notes": VIDEO.notes,
}


@pytest.mark.parametrize("name", ["Json", "Csv", "Vtt"])
def test_files_are_those_that_label_writes(node: Node, name: str, tmp_path: Path):
    path = tmp_path / f"labels.{name.lower()}"
    write_labels(path, [VIDEO])
    expected, found = path.read_text(), node("formats.js", f"page.to{name}(it.video)", video=OBJECT)
    if name == "Json":
        assert json.loads(found) == json.loads(expected)
    elif name == "Csv":
        assert list(csv.reader(io.StringIO(found))) == list(csv.reader(io.StringIO(expected)))
    else:
        assert found == expected
