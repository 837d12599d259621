"""A file that carries its extractor: the same frames as `vidfit extract` makes, in one graph and in parts."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.export.members import float_member
from tests.videos.making import small_model
from vidfit.export.extractor import CarriedExtractor, CarriedModel, frames_name
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.metadata import parse_metadata, read_header
from vidfit.export.parts import extractor_bytes, split
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.inference.predictor import load
from vidfit.videos.backbones import find_backbone
from vidfit.videos.carried import CarriedModels
from vidfit.videos.embed import _Model
from vidfit.videos.extractor import Extractor, Settings
from vidfit.videos.transform import fit_transform

RANDOM = np.random.default_rng(0)
STEPS, RATE = 7, 2.0
IMAGES = RANDOM.integers(0, 256, (STEPS, 16, 16, 3), dtype=np.uint8)
AUDIO = RANDOM.normal(size=30_000).astype(np.float32) * np.float32(0.1)
SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=3), Modality(name="audio", size=2)))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    folder = tmp_path_factory.mktemp("models")
    backbones = [
        find_backbone(small_model(folder, "colours", "rgb"), "rgb"),
        find_backbone(small_model(folder, "bands", "audio"), "audio"),
    ]
    transforms = {
        backbone.modality: fit_transform([_Model(backbone).run(values)], size)
        for backbone, values, size in zip(
            backbones, (list(IMAGES), list(RANDOM.normal(size=(9, 15600)).astype(np.float32) / 9)), (3, 2), strict=True
        )
    }
    return Extractor(settings=Settings(rate=RATE, backbones=tuple(backbones)), transforms=transforms)


def packed(folder: Path, extractor: Extractor, *modalities: str) -> Path:
    """A file that carries some of the models."""
    files = {it.modality: it.file for it in extractor.settings.backbones}
    models = {name: CarriedModel(onnx.load(str(files[name])), 32) for name in modalities}
    path = folder / "carried.onnx"
    write_graph(
        path, [PackedMember(float_member("mean", SPEC), 1.0)], 10**8, carried=CarriedExtractor(extractor, models)
    )
    return path


def frames_of(path: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The bytes of frames that the whole graph makes, and its probabilities."""
    model = onnx.load(path)
    names = [frames_name("rgb"), frames_name("audio")]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(it, onnx.TensorProto.UINT8, None) for it in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([*names, "probabilities"], inputs)
    return dict(zip(("rgb", "audio", "probabilities"), map(np.asarray, found), strict=True))


def expected(extractor: Extractor, images: np.ndarray, audio: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """The bytes by the extractor's NumPy code: a window counts if at least half of it is there."""
    rgb, sound = extractor.settings.backbones
    windows, heard = np.zeros((steps, 15600), np.float32), np.zeros(steps, bool)
    for step in range(steps):
        own = audio[round(step * 16000 / RATE) :][:15600]
        real = ~np.isnan(own)
        windows[step, : len(own)] = np.where(real, own, 0)
        heard[step] = 2 * real.sum() >= 15600
    pictures = images if len(images) else np.zeros((steps, 16, 16, 3), np.uint8)
    return {
        "rgb": extractor.transforms["rgb"].apply(_Model(rgb).run(list(pictures)), np.full(steps, len(images) > 0)),
        "audio": extractor.transforms["audio"].apply(_Model(sound).run(list(windows)), heard),
    }


GAPS = np.where((np.arange(30_000) > 9_000) & (np.arange(30_000) < 21_000), np.float32(np.nan), AUDIO)


@pytest.mark.parametrize(
    ("images", "audio", "steps"),
    [
        (IMAGES, AUDIO, STEPS),
        (IMAGES, GAPS, STEPS),
        (IMAGES, AUDIO[:0], STEPS),
        (IMAGES[:0], AUDIO, 4),
        (IMAGES[:1], AUDIO, 1),
    ],
    ids=["both", "gaps in the sound", "no sound", "no picture", "more sound than pictures"],
)
def test_the_graph_makes_the_extractors_frames(extractor, tmp_path, images, audio, steps):
    path = packed(tmp_path, extractor, "rgb", "audio")
    found = frames_of(path, images=images, audio=audio)
    for name, frames in expected(extractor, images, audio, steps).items():
        assert found[name].shape == (1, *frames.shape)
        assert np.abs(found[name][0].astype(int) - frames).max() <= 1
    probabilities = load(path).predict({name: found[name] for name in ("rgb", "audio")})
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)


def test_parts_give_what_the_whole_gives(extractor, tmp_path):
    path = packed(tmp_path, extractor, "rgb", "audio")
    whole = frames_of(path, images=IMAGES, audio=AUDIO)
    models = CarriedModels(split(path).parts, SPEC).by_modality
    windows = [np.resize(AUDIO[round(step * 8000) :], 15600) for step in range(2)]
    np.testing.assert_array_equal(models["rgb"].run(list(IMAGES)), whole["rgb"][0])
    np.testing.assert_array_equal(models["audio"].run(windows), whole["audio"][0, :2])


def test_the_bytes_of_a_carried_model(extractor, tmp_path):
    path = packed(tmp_path, extractor, "audio")
    info = parse_metadata(path, read_header(path).metadata)
    of_sounds = onnx.load_from_string(split(path).parts["sounds"])
    del of_sounds.metadata_props[:]
    assert extractor_bytes(path, info) == {"sounds": of_sounds.ByteSize()}


def test_a_modality_left_out_is_absent(extractor, tmp_path):
    path = packed(tmp_path, extractor, "audio")
    assert list(split(path).parts) == ["sounds", "model"]
    assert [it.name for it in onnx.load(path).graph.input] == ["audio"]
    random = np.random.default_rng(1)
    frames = {it.name: random.integers(0, 256, (2, 5, it.size), dtype=np.uint8) for it in SPEC.modalities}
    predictor = load(path)
    found = predictor.predict(frames)
    np.testing.assert_array_equal(found, predictor.predict(frames | {"rgb": np.full_like(frames["rgb"], 127)}))
    both = load(packed(tmp_path, extractor, "rgb", "audio"))
    np.testing.assert_array_equal(found, both.predict(frames | {"rgb": np.full_like(frames["rgb"], 127)}))
    assert not np.array_equal(found, both.predict(frames))


def test_the_file_has_the_transforms_once(extractor, tmp_path):
    path = packed(tmp_path, extractor, "rgb", "audio")
    predictor = load(path)
    assert predictor.carried
    assert Extractor.model_validate_json(predictor.extractor or "").digest == extractor.digest
    assert b'"base64"' not in path.read_bytes()
