"""The page's own timeline and files, under Node, against Python's."""

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidfit.inference import timeline
from vidfit.inference.label import Label, LabelledVideo
from vidfit.inference.label_files import write_labels

PAGE = Path(timeline.__file__).parents[1] / "export" / "web"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: apt-get install nodejs")


Node = Callable[..., Any]
ANSWER = """
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
    const { module, expression, it } = JSON.parse(line);
    const found = new Function("page", "it", `return ${expression}`)(await import(module), it);
    console.log(JSON.stringify(ArrayBuffer.isView(found) ? Array.from(found) : found));
}
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Gives the value of an expression over a module of the page (`page`) and some values (`it`)."""
    # Node warns of modules in a folder without package.json, which the page does not need.
    command = ["node", "--no-warnings", "--input-type=module", "--eval", ANSWER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        questions, answers = process.stdin, process.stdout
        assert questions and answers  # noqa: PT018 - for pyright

        def ask(module: str, expression: str, **values: Any) -> Any:
            question = {"module": (PAGE / module).as_uri(), "expression": expression, "it": values}
            print(json.dumps(question), file=questions, flush=True)
            return json.loads(answers.readline())

        yield ask


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_steps_from_frames_are_those_of_python(node: Node, steps: int, random: np.random.Generator):
    frames = random.choice([0.0, 0.2, 0.7, 1.0], size=(steps, 3)).astype(np.float32)
    video = random.uniform(size=3).astype(np.float32)
    call = "page.fromFrames(Float32Array.from(it.frames), Float32Array.from(it.video))"
    found = node("timeline.js", call, frames=frames.ravel().tolist(), video=video.tolist())
    np.testing.assert_allclose(np.reshape(found, (steps, 3)), timeline.from_frames(frames, video), atol=1e-6)


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


@pytest.mark.parametrize(("width", "height"), [(16, 16), (40, 31), (9, 300)])
def test_pictures_are_scaled_as_ffmpeg_scales_them(node: Node, width: int, height: int, random: np.random.Generator):
    av = pytest.importorskip("av")
    from av.video.reformatter import Interpolation, VideoReformatter

    # Grey, for FFmpeg halves the colours of RGB before it scales them.
    picture = random.integers(0, 256, (height, width), np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="gray")
    options = {"width": 16, "height": 16, "format": "gray", "threads": 1}
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
    expected = VideoReformatter().reformat(frame, interpolation=flags, **options).to_ndarray()
    rgba = np.dstack([picture, picture, picture, np.full_like(picture, 255)])
    call = f"page.toSquare(Uint8ClampedArray.from(it.rgba), {width}, {height}, 16)"
    found = np.reshape(node("pixels.js", call, rgba=rgba.ravel().tolist()), (16, 16, 3))
    assert abs(found - expected[..., None].astype(int)).max() <= 2


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_sound_is_resampled_as_python_resamples_it(node: Node, rate: int, tmp_path: Path, random: np.random.Generator):
    pytest.importorskip("av")
    from tests.videos.making import write
    from vidfit.videos.decode import Reading, Sampling, read_steps

    samples = random.normal(0, 0.2, (1, 2 * rate)).astype(np.float32).clip(-1, 1)
    path = write(tmp_path / "noise.wav", samples=samples, sound_rate=rate, sound_codec="pcm_f32le")
    sampling = Sampling(picture_size=0, sound_window=16000)
    expected = np.concatenate([sound[1] for sound in read_steps(path, sampling, Reading())])
    call = "page.resampled(Float32Array.from(it.samples), it.rate)"
    found = node("sound.js", call, samples=samples[0].tolist(), rate=rate)
    assert abs(len(found) - 32000) <= 1
    # FFmpeg mirrors the sound at its very beginning; the page has silence there.
    np.testing.assert_allclose(found[50:31900], expected[50:31900], atol=1e-3)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.wav", "pcm_s16le")])
def test_the_sample_rate_of_a_file_is_found(node: Node, name: str, codec: str, rate: int, tmp_path: Path):
    pytest.importorskip("av")
    from tests.videos.making import RED, frames_at, plain, tone, write

    pictures: dict[str, Any] = {"show": lambda time: plain(RED), "times": frames_at(12, 1)} if name == "a.mp4" else {}
    path = write(tmp_path / name, samples=tone(440, 1, rate), sound_rate=rate, sound_codec=codec, **pictures)
    content = list(path.read_bytes())
    assert node("sound.js", "page.rateOf(Uint8Array.from(it.content))", content=content) == rate
