"""Frames as bytes, run by ONNX Runtime: against the same formulas in float64, within what rounding may do."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.export.exporting import exported
from vidfit.export.frames import StoredFrames
from vidfit.export.weight_formats import Int8Weight
from vidfit.export.weights import StoredWeight
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.preprocessing import prepare_frames
from vidfit.quantization.uniform import QuantScheme, quantize

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=20), Modality(name="audio", size=12)))
CLUSTERS = 6
SCALE = np.linspace(-1, 2, 20)
Run = Callable[..., dict[str, np.ndarray]]


class Products(nn.Module):
    """All that is done with frames."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        weights = torch.randn(20, CLUSTERS) * torch.tensor([1, 1e3, 1e-3, 1, 0, 1])
        self.weights = quantize(weights, QuantScheme(bits=8, granularity="channel"))
        self.stored = Int8Weight(self.weights)
        self.floats = self.weights.dequantize()
        self.biases = torch.arange(float(CLUSTERS))
        self.scale = torch.from_numpy(SCALE.astype(np.float32))

    def forward(
        self, rgb: torch.Tensor, audio: torch.Tensor, mask_BT: torch.Tensor, assign_BTK: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        frames = StoredFrames.prepare({"rgb": rgb, "audio": audio}, SPEC, mask_BT)
        one, assign_BKT = frames[..., SPEC.slices()["rgb"]], assign_BTK.transpose(1, 2)
        frames_ND = one.flatten(0, 1)
        logits_NK = torch.addmm(self.biases, frames_ND, StoredWeight(self.stored))  # type: ignore[arg-type]
        same_NK = torch.addmm(self.biases, frames_ND, self.floats)  # type: ignore[arg-type]
        sums_BKD = torch.matmul(assign_BKT, one) * self.scale  # type: ignore[arg-type]
        return logits_NK, same_NK, sums_BKD, assign_BKT @ one.square(), frames.values()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path, names = tmp_path_factory.mktemp("frames") / "frames.onnx", ["rgb", "audio", "mask", "assign"]
    example = (
        torch.zeros(2, 3, 20, dtype=torch.uint8),
        torch.zeros(2, 3, 12, dtype=torch.uint8),
        torch.ones(2, 3, dtype=torch.bool),
        torch.zeros(2, 3, CLUSTERS),
    )
    videos, frames = torch.export.Dim("videos"), torch.export.Dim("frames")
    onnx.save(exported(Products(), example, names, ({0: videos, 1: frames},) * 4), path)
    session = onnxruntime.InferenceSession(path)

    def run(rgb: np.ndarray, audio: np.ndarray, mask: np.ndarray, assign: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {"rgb": rgb, "audio": audio, "mask": mask, "assign": assign.astype(np.float32)}
        outputs = [np.asarray(output) for output in session.run(None, inputs)]
        return dict(zip(("logits", "same", "sums", "squares", "values"), outputs, strict=True))

    return run


def normalised(rgb: np.ndarray, audio: np.ndarray, mask: np.ndarray) -> np.ndarray:
    values = dequantised(rgb, audio)
    return values / np.linalg.norm(values, axis=2, keepdims=True) * mask[:, :, None]


def dequantised(rgb: np.ndarray, audio: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb, audio], axis=2).astype(np.float64) * 4 / 255 + 4 / 512 - 2


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(2, keepdims=True))
    return (values / values.sum(2, keepdims=True)).astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Int8Weight of every sort, extremes and frames of no signal among them; assignments from flat to one-hot."""
    videos, frames = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = draw(st.sampled_from([(0, 256), (0, 1), (255, 256), (127, 128), (127, 129), (100, 150)]))
    rgb, audio = (random.integers(low, high, (videos, frames, size), dtype=np.uint8) for size in (20, 12))
    mask = np.arange(frames) < random.integers(1, frames + 1, (videos, 1))
    if draw(st.booleans()):
        silent, lowest = random.random((videos, frames)) < 0.2, draw(st.sampled_from([126, 127, 128]))
        for codes in (rgb, audio):
            codes[silent] = random.integers(lowest, 129, codes[silent].shape)
    sharp = draw(st.sampled_from([0.0, 1.0, 30.0]))
    return rgb, audio, mask, softmax(sharp * random.standard_normal((videos, frames, CLUSTERS))) * mask[:, :, None]


@given(case=cases())
def test_products_are_those_of_normalised_frames_up_to_rounding(run: Run, case: tuple[np.ndarray, ...]):
    rgb, audio, mask, assign = case
    found, exact = run(*case), normalised(rgb, audio, mask)
    rgb_BTD = exact[:, :, :20]
    np.testing.assert_allclose(found["values"], exact, atol=1e-5)
    # Half a step of each weight.
    weights = Products().weights.dequantize().double().numpy()
    step_K = np.abs(weights).max(0) / 64
    logits_BTK = rgb_BTD @ weights + np.arange(CLUSTERS)
    bound_BTK = np.abs(rgb_BTD).sum(2)[:, :, None] * (step_K / 2 + 1e-5 * step_K) + 1e-5 * (1 + step_K)
    assert (np.abs(found["logits"].reshape(logits_BTK.shape) - logits_BTK) <= bound_BTK).all()
    np.testing.assert_allclose(found["same"], found["logits"], rtol=1e-5, atol=1e-5)
    # Less than a step of each assignment that is not zero, and what a byte lacks to whole steps from 127.
    values_BTD = dequantised(rgb, audio)[:, :, :20] * 255 / 4
    factor_BT1 = np.abs(rgb_BTD).max(2, keepdims=True) / np.abs(values_BTD).max(2, keepdims=True)
    gain_BT1 = np.maximum(1, np.floor(127 / np.abs(values_BTD).max(2, keepdims=True)))
    step_B1K = (assign * factor_BT1 / gain_BT1).max(1, keepdims=True) / 126
    bound_BKD = np.swapaxes((assign > 0) * step_B1K, 1, 2) @ np.abs(values_BTD * gain_BT1)
    lacking_BTD = np.where(gain_BT1 > 127, 0, 0.002) * factor_BT1
    bound_BKD += np.swapaxes(assign, 1, 2) @ lacking_BTD
    error_BKD = np.abs(found["sums"] - np.swapaxes(assign, 1, 2) @ rgb_BTD * SCALE)
    assert (error_BKD <= 1.001 * bound_BKD * np.abs(SCALE) + 1e-5).all()
    np.testing.assert_allclose(found["squares"], np.swapaxes(assign, 1, 2) @ rgb_BTD**2, atol=1e-5, rtol=1e-5)


def test_values_are_those_of_pytorch(run: Run):
    random = np.random.default_rng(0)
    rgb, audio = (random.integers(0, 256, (3, 7, size), dtype=np.uint8) for size in (20, 12))
    mask = np.arange(7) < np.array([[7], [1], [4]])
    frames = {"rgb": torch.from_numpy(rgb), "audio": torch.from_numpy(audio)}
    expected = prepare_frames(frames, SPEC, torch.from_numpy(mask))
    found = run(rgb, audio, mask, np.zeros((3, 7, CLUSTERS)))["values"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("small", [0.001, 0.003, 0.0039, 0.1])
def test_many_small_assignments_count_as_much_as_they_are(small: float, run: Run):
    """Of 300 frames one is a cluster's and the others hardly are, each less than half a level."""
    assign = np.full((1, 300, CLUSTERS), small)
    assign[0, 17] = 1
    rgb, audio = np.full((1, 300, 20), 200, dtype=np.uint8), np.full((1, 300, 12), 30, dtype=np.uint8)
    mask = np.ones((1, 300), dtype=bool)
    sums_KD = run(rgb, audio, mask, assign)["sums"][0]
    exact_D = (1 + 299 * small) * normalised(rgb, audio, mask)[0, 0, :20] * SCALE
    # The pattern is even to a few levels of 126.
    np.testing.assert_allclose(sums_KD, np.broadcast_to(exact_D, sums_KD.shape), atol=2.5 / 126 * np.abs(exact_D).max())


@pytest.mark.parametrize("silent", [1, 30, 150])
@pytest.mark.parametrize("level", [127, 128])
def test_frames_of_no_signal_leave_the_others_as_they_are(level: int, silent: int, run: Run):
    random = np.random.default_rng(2)
    rgb, audio = (random.integers(0, 256, (1, 300, size), dtype=np.uint8) for size in (20, 12))
    for codes in (rgb, audio):
        codes[0, :silent] = level
    mask = np.ones((1, 300), dtype=bool)
    assign = softmax(3 * random.standard_normal((1, 300, CLUSTERS)))
    exact_KD = assign[0].T @ normalised(rgb, audio, mask)[0, :, :20] * SCALE
    error_KD = run(rgb, audio, mask, assign)["sums"][0] - exact_KD
    assert np.linalg.norm(error_KD) < 0.01 * np.linalg.norm(exact_KD)


def test_a_video_depends_neither_on_its_batch_nor_on_what_follows_its_end(run: Run):
    random = np.random.default_rng(1)
    rgb, audio = (random.integers(0, 256, (5, 30, size), dtype=np.uint8) for size in (20, 12))
    lengths = np.array([30, 1, 12, 29, 7])
    mask = np.arange(30) < lengths[:, None]
    assign = softmax(3 * random.standard_normal((5, 30, CLUSTERS))) * mask[:, :, None]
    together = run(rgb, audio, mask, assign)
    for video, length in enumerate(lengths):
        own = slice(video, video + 1), slice(0, length)
        alone = run(rgb[own], audio[own], mask[own], assign[own])
        for name in ("sums", "squares"):
            np.testing.assert_allclose(alone[name][0], together[name][video], rtol=1e-5, atol=1e-6)
        logits = together["logits"].reshape(5, 30, CLUSTERS)[own]
        np.testing.assert_allclose(alone["logits"].reshape(logits.shape), logits, rtol=1e-5, atol=1e-5)
