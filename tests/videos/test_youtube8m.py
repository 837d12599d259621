"""YouTube-8M's own features, on small stand-ins for its files. `make test-tensorflow` runs what needs TensorFlow."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.conftest import Call
from tests.videos.frozen_graphs import inception, matrix_file, vggish
from tests.videos.making import GREEN, RED, frames_at, plain, tone, write
from vidfit.errors import DataError, VidfitError
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.videos.backbones import find_backbone, model_file
from vidfit.videos.extractor import FILE, read_extractor
from vidfit.videos.transform import ABSENT, Transform, youtube8m_transform

SIZES = {"inception3": (2048, 1024), "vggish": (128, 128)}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of YouTube-8M's files in a cache of the test's own; the graphs are empty files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "vidfit" / "backbones" / "youtube8m"
    folder.mkdir(parents=True)
    for name, (given, kept) in SIZES.items():
        mean, projection = matrices(name)
        assert (mean.shape, projection.shape) == ((given, 1), (kept, given))
        matrix_file(folder / f"{name}_mean_matrix_data.pb", mean)
        matrix_file(folder / f"{name}_projection_matrix_data.pb", projection, by_rows=name == "vggish")
    (folder / "classify_image_graph_def.pb").write_bytes(b"")
    (folder / "vggish_new.pb").write_bytes(b"")
    return folder


@pytest.fixture
def tf(files: Path) -> Any:
    """TensorFlow, and the graphs as they are."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tf2onnx")
    tensorflow = pytest.importorskip("tensorflow")
    (files / "classify_image_graph_def.pb").write_bytes(inception(tensorflow).SerializeToString())
    (files / "vggish_new.pb").write_bytes(vggish(tensorflow).SerializeToString())
    return tensorflow


def matrices(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[D, 1]` and projection `[K, D]`."""
    given, kept = SIZES[name]
    random = np.random.default_rng(given)
    return random.normal(size=(given, 1)), random.normal(size=(kept, given)) / np.sqrt(given)


def run(tf: Any, path: Path, output: str, values: dict[str, np.ndarray]) -> np.ndarray:
    """What TensorFlow makes of a frozen graph."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(path.read_bytes()), name="")
        return session.run(output, values)


def test_bytes_are_those_of_the_formula():
    values = np.concatenate([np.random.default_rng(0).normal(size=4000), [-9, -2, 0, 2, 9]]).astype(np.float32)
    exact = (np.clip(values.astype(np.float64), -2, 2) + 2) * 255 / 4
    found = youtube8m_transform(len(values)).apply(values[None], np.ones(1, bool))[0]
    # Sums in float32 may round a value in the middle of two bytes either way.
    sure = np.abs(exact % 1 - 0.5) > 1e-4
    np.testing.assert_array_equal(found[sure], np.round(exact[sure]))
    assert np.abs(found - exact).max() < 0.5001
    assert sure.mean() > 0.99


def test_absent_sound_is_the_mean_and_not_byte_0():
    found = youtube8m_transform(128).apply(np.zeros((2, 128), np.float32), np.array([True, False]))
    assert (found[1] == ABSENT).all()
    assert np.abs(ABSENT * 4 / 255 + 4 / 512 - 2) < 0.01


def test_the_transform_is_kept_in_json():
    transform = youtube8m_transform(3)
    again = Transform.model_validate_json(transform.model_dump_json())
    assert again.components is None
    np.testing.assert_array_equal(again.mean, transform.mean)


@pytest.mark.parametrize(("option", "name"), [("--image-model", "inception3"), ("--sound-model", "vggish")])
def test_missing_files_are_named(option: str, name: str, files: Path, tmp_path: Path, vidfit: Call):
    (files / f"{name}_mean_matrix_data.pb").unlink()
    other = ["--sound-model", "none"] if option == "--image-model" else ["--image-model", "none"]
    write(tmp_path / "a.mp4", lambda time: plain(RED), frames_at(12, 1))
    code, _, err = vidfit("extract", tmp_path / "a.mp4", "-o", tmp_path / "features", option, "youtube8m", *other)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{files}: {name}_mean_matrix_data.pb missing" in err
    assert "docs/guide/image-and-sound-models.md" in err


def test_a_matrix_of_another_size_is_refused(files: Path):
    backbone = find_backbone("youtube8m", "audio")
    matrix_file(files / "vggish_mean_matrix_data.pb", np.zeros((64, 1)))
    with pytest.raises(DataError, match="holds other files than the features were made with"):
        model_file(backbone)
    with pytest.raises(DataError, match="has 64 x 1 values, not 128 x 1"):
        model_file(find_backbone("youtube8m", "audio"))


def test_a_file_that_is_no_matrix_is_refused(files: Path):
    (files / "vggish_mean_matrix_data.pb").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="is no matrix of MediaPipe"):
        model_file(find_backbone("youtube8m", "audio"))


def test_without_tensorflow_the_line_that_installs_it_is_named(files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(VidfitError, match=r"pip install 'vidfit\[youtube8m\]'"):
        model_file(find_backbone("youtube8m", "rgb"))


def test_pictures_are_embedded_as_tensorflow_does(tf: Any, files: Path):
    backbone = find_backbone("youtube8m", "rgb")
    session = onnxruntime.InferenceSession(model_file(backbone))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3)).astype(np.uint8)
    found = session.run(["embeddings"], {"input": (pictures - np.float32(128)) / np.float32(128)})[0]
    mean, projection = matrices("inception3")
    for picture, embedding in zip(pictures, np.asarray(found), strict=True):
        path = files / "classify_image_graph_def.pb"
        values = run(tf, path, "pool_3/_reshape:0", {"DecodeJpeg:0": picture})[0].astype(np.float64)
        np.testing.assert_allclose(embedding, projection @ (values - mean[:, 0]), atol=1e-3)


def test_sounds_are_embedded_as_tensorflow_does(tf: Any, files: Path):
    session = onnxruntime.InferenceSession(model_file(find_backbone("youtube8m", "audio")))
    spectrograms = np.random.default_rng(0).normal(size=(3, 96, 64)).astype(np.float32)
    found = session.run(["embeddings"], {"input": spectrograms[:, None]})[0]
    features = {"vggish/input_features:0": spectrograms}
    values = run(tf, files / "vggish_new.pb", "vggish/fc2/BiasAdd:0", features).astype(np.float64)
    mean, projection = matrices("vggish")
    np.testing.assert_allclose(np.asarray(found), (values - mean[:, 0]) @ projection.T, atol=1e-3)


def test_a_graph_that_is_damaged_is_refused(tf: Any, files: Path):
    (files / "vggish_new.pb").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"vggish_new.pb: cannot become an ONNX file"):
        model_file(find_backbone("youtube8m", "audio"))


def test_videos_become_features_of_youtube8ms_sizes(tf: Any, tmp_path: Path, vidfit: Call):
    for name, colour in (("red", RED), ("green", GREEN)):
        (tmp_path / "clips" / name).mkdir(parents=True)
        sound = None if name == "red" else tone(400, 2)
        write(tmp_path / "clips" / name / "1.mp4", lambda time, colour=colour: plain(colour), frames_at(12, 2), sound)
    models = ["--image-model", "youtube8m", "--sound-model", "youtube8m", "--workers", "1"]
    code, _, err = vidfit("extract", tmp_path / "clips", "-o", tmp_path / "features", *models, "--split", "eval=1")
    assert (code, err.splitlines()[-1]) == (0, "writing features")
    read = read_videos(next((tmp_path / "features").rglob("*.tfrecord")))
    frames = {video.id: video.frames for video in read if isinstance(video, Video)}
    sizes = {name: values.shape for name, values in frames["green/1.mp4"].items()}
    assert sizes == {"rgb": (2, 1024), "audio": (2, 128)}
    assert (frames["red/1.mp4"]["audio"] == ABSENT).all()
    assert read_extractor(tmp_path / "features" / FILE).settings.picture_time == 0
