"""A model in use: arrays and shards, packed files and members, and what does not fit."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import vidfit
from tests.corpus import LABELS, VIDEOS, videos
from vidfit.errors import DataError, ModelFileError


def arrays(count: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    found = list(videos(count, seed=2))
    longest = max(video.num_frames for video in found)
    frames = {
        name: np.stack([np.pad(video.frames[name], ((0, longest - video.num_frames), (0, 0))) for video in found])
        for name in found[0].frames
    }
    return frames, np.array([video.num_frames for video in found]), [video.id for video in found]


def test_arrays_and_shards_agree(finished: Path, corpus: Path):
    model = vidfit.load(finished / "model.onnx")
    frames, num_frames, ids = arrays(VIDEOS["eval"])
    from_arrays = dict(zip(ids, model.predict(frames, num_frames), strict=True))
    from_shards = dict(model.predict(corpus / "eval"))
    assert set(from_arrays) == set(from_shards)
    for id, probabilities in from_shards.items():
        np.testing.assert_allclose(probabilities, from_arrays[id], atol=1e-6)
    assert model.vocabulary == LABELS


def test_several_patterns(finished: Path, corpus: Path):
    model = vidfit.load(finished / "model.onnx")
    patterns = [str(corpus / "eval" / "eval0*"), corpus / "validation" / "validation1.tfrecord"]
    assert len(list(model.predict(patterns))) == VIDEOS["eval"] // 2 + VIDEOS["validation"] // 2


def test_without_lengths_every_slot_is_a_frame(finished: Path):
    model = vidfit.load(finished / "model.onnx")
    frames, _, _ = arrays()
    longest = frames["rgb"].shape[1]
    np.testing.assert_array_equal(model.predict(frames), model.predict(frames, np.full(3, longest)))


def test_a_member_and_its_quantised_form_predict(finished: Path):
    frames, num_frames, _ = arrays()
    member = vidfit.load(finished / "members" / "lstm").predict(frames, num_frames)
    quantised = vidfit.load(finished / "members" / "lstm" / "quantized.safetensors").predict(frames, num_frames)
    assert member.shape == (3, len(LABELS))
    assert 0 < np.abs(member - quantised).max() < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frames: frames.pop("audio"), r"reads the modalities \['audio', 'rgb'\]"),
        (
            lambda frames: frames.update(rgb=frames["rgb"][:, :, :5]),
            r"modality rgb: the model reads uint8 \[B, T, 24\]",
        ),
        (lambda frames: frames.update(audio=frames["audio"].astype(float)), "modality audio: .*float64"),
        (lambda frames: frames.update(audio=frames["audio"][:, 1:]), "same B and T"),
    ],
)
def test_arrays_that_do_not_fit(finished: Path, change, message: str):
    frames, num_frames, _ = arrays()
    change(frames)
    with pytest.raises(DataError, match=message):
        vidfit.load(finished / "model.onnx").predict(frames, num_frames)


@pytest.mark.parametrize("num_frames", [[0, 1, 1], [1, 1, 99], [1, 1]])
def test_lengths_that_do_not_fit(finished: Path, num_frames: list[int]):
    with pytest.raises(DataError, match="give 3 numbers from 1 to"):
        vidfit.load(finished / "model.onnx").predict(arrays()[0], np.array(num_frames))


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_file_cut_short(finished: Path, tmp_path: Path, share: float):
    whole = (finished / "model.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelFileError, match=r"cut\.onnx: ") as caught:
        vidfit.load(path)
    assert "\n" not in str(caught.value)


def test_a_member_cut_short(finished: Path, tmp_path: Path):
    whole = (finished / "members" / "mean" / "best.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[:-9])
    with pytest.raises(ModelFileError, match=r"cut\.safetensors: not a readable member"):
        vidfit.load(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"nothing\.onnx: no such file"):
        vidfit.load(tmp_path / "nothing.onnx")
    with pytest.raises(ModelFileError, match="no such member"):
        vidfit.load(tmp_path / "nothing")


def test_another_onnx_file(tmp_path: Path):
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "other", [value], [out])
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "other.onnx")
    with pytest.raises(ModelFileError, match=r"vidfit\.format is None"):
        vidfit.load(tmp_path / "other.onnx")
