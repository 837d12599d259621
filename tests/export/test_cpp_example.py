"""examples/cpp/label.cpp: compiled against a released ONNX Runtime, it gives the labels that Python gives."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import vidfit
from tests.export.members import arrays, member
from tests.inference.test_predictor import edited
from tests.serving.models import write_video_model
from tests.videos.making import BLUE, RED, by_second, frames_at, tone, write
from vidfit.evaluation.thresholds import encode
from vidfit.export.graph import PackedMember, write_graph
from vidfit.videos.decode import Picture, Reading, Sampling, read_steps

ROOT = Path(__file__).parents[2]
HEADERS = ROOT / "build" / "onnxruntime-headers"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled example. Its library is that of Python's package."""
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
    if not HEADERS.is_dir() or not shutil.which("g++") or library is None:
        pytest.skip("needs g++ and make build/onnxruntime-headers")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", HEADERS, "-L", folder]
    source = ROOT / "examples" / "cpp" / "label.cpp"
    output = ["-lonnxruntime", f"-Wl,-rpath,{folder}", "-o", folder / "label"]
    subprocess.run(["g++", *options, source, *output], check=True)
    return folder / "label"


def labels(program: Path, model: Path, folder: Path, **inputs: np.ndarray) -> dict[str, float]:
    """What the program prints for inputs in files."""
    for name, array in inputs.items():
        (folder / name).write_bytes(array.tobytes())
    arguments = [f"{name}={folder / name}" for name in inputs]
    done = subprocess.run([program, model, *arguments], capture_output=True, text=True, check=True)
    rows = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return {label: float(probability) for probability, label in rows}


@pytest.mark.parametrize("own_thresholds", [False, True])
def test_features_have_the_labels_of_python(program: Path, tmp_path: Path, own_thresholds: bool):
    model = tmp_path / "model.onnx"
    write_graph(model, [PackedMember(member("frames max"), 1.0), PackedMember(member("gru"), 1.0)], 10**6)
    inputs = arrays(1, 7)
    del inputs["num_frames"]
    if own_thresholds:
        levels_C = np.arange(len(vidfit.load(model).vocabulary)) * 50

        def change(proto: onnx.ModelProto) -> None:
            proto.metadata_props.add(key="vidfit.thresholds", value=encode(levels_C))

        model = edited(model, tmp_path / "thresholds.onnx", change)
    predictor = vidfit.load(model)
    thresholds_C = np.full(len(predictor.vocabulary), 0.5) if predictor.thresholds is None else predictor.thresholds
    row_C = predictor.predict(inputs)[0]
    expected = {name: row_C[i] for i, name in enumerate(predictor.vocabulary) if row_C[i] >= thresholds_C[i]}
    assert 0 < len(expected) < len(row_C)
    found = labels(program, model, tmp_path, **inputs)
    assert found == pytest.approx(expected, abs=2e-6)


def test_a_clip_has_the_labels_of_python(program: Path, tmp_path: Path):
    model = write_video_model(tmp_path, with_extractor=True)
    clip = write(tmp_path / "clip.mp4", by_second(RED, BLUE, BLUE), frames_at(12, 3), tone(400, 3))
    images, audio = [], np.zeros(3 * 16000, np.float32)
    for step in read_steps(clip, Sampling(picture_size=16), Reading()):
        if isinstance(step, Picture):
            images.append(step.pixels)
        else:
            audio[16000 * step.step :][: len(step.samples)] = step.samples
    (video,) = vidfit.label(model, clip)
    expected = {it.label: it.probability for it in video.labels if it.probability >= 0.5}
    assert expected
    found = labels(program, model, tmp_path, images=np.stack(images), audio=audio)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_mistake_is_one_line(program: Path, tmp_path: Path):
    model = write_video_model(tmp_path, with_extractor=True)
    cases = {
        (): "label: give MODEL INPUT=FILE ...\n",
        (model,): "label: give images=FILE, a file that can be read\n",
        (model, "images=none"): "label: give images=FILE, a file that can be read\n",
    }
    for arguments, line in cases.items():
        done = subprocess.run([program, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, line)
