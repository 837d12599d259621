"""Frames as bytes, run by ONNX Runtime: against the same formulas in float64, within what rounding may do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.export.exporting import session
from vidfit.export.frames import byte_frames, float_frames
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.slots import Slots
from vidfit.export.weight_formats import FloatWeight, Int8Weight
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.preprocessing import prepare_frames
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=20), Modality(name="audio", size=12)))
CLUSTERS = 6
SCALE = np.linspace(-1, 2, 20).astype(np.float32)
Run = Callable[..., dict[str, np.ndarray]]


def quantized_weights() -> QuantizedTensor:
    torch.manual_seed(0)
    weights = torch.randn(20, CLUSTERS) * torch.tensor([1, 1e3, 1e-3, 1, 0, 1])
    return quantize(weights, QuantScheme(bits=8, granularity="channel"))


@pytest.fixture(scope="module")
def run() -> Run:
    """All that is done with frames, of bytes and of floats."""
    graph = GraphWriter()
    stored = {it.name: graph.input(it.name, np.uint8, ["videos", "frames", it.size]) for it in SPEC.modalities}
    slots = Slots(graph, stored["rgb"], graph.input("num_frames", np.int64, ["videos"]))
    assign_BTK = graph.input("assign", np.float32, ["videos", "frames", CLUSTERS])
    tensor = quantized_weights()
    weights = {"logits": Int8Weight(graph, "int8", tensor), "same": FloatWeight(graph, "floats", tensor.dequantize())}
    biases = torch.arange(float(CLUSTERS))
    for kind, frames in (("", byte_frames(stored, SPEC, slots)), ("float ", float_frames(stored, SPEC, slots))):
        rgb = frames.columns(SPEC.slices()["rgb"])
        results = {name: rgb.times(weight, None, None, biases) for name, weight in weights.items() if not kind}
        results |= {
            "sums": rgb.sums(assign_BTK, CLUSTERS, SCALE),
            "squares": rgb.square_sums(assign_BTK, np.float32(1)),
            "values": frames.values(),
        }
        for name, value in results.items():
            graph.output(value, kind + name, ["x", "y", "z"])
    opened = session(graph)
    names = [put.name for put in opened.get_outputs()]

    def run(rgb: np.ndarray, audio: np.ndarray, num_frames: np.ndarray, assign: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {"rgb": rgb, "audio": audio, "num_frames": num_frames, "assign": assign.astype(np.float32)}
        return dict(zip(names, map(np.asarray, opened.run(names, inputs)), strict=True))

    return run


def real(num_frames: np.ndarray, frames: int) -> np.ndarray:
    """bool `[B, T]`."""
    return np.arange(frames) < num_frames[:, None]


def normalised(rgb: np.ndarray, audio: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
    values = dequantized(rgb, audio)
    return values / np.linalg.norm(values, axis=2, keepdims=True) * real(num_frames, rgb.shape[1])[:, :, None]


def dequantized(rgb: np.ndarray, audio: np.ndarray) -> np.ndarray:
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
    num_frames = random.integers(1, frames + 1, videos)
    if draw(st.booleans()):
        silent, lowest = random.random((videos, frames)) < 0.2, draw(st.sampled_from([126, 127, 128]))
        for codes in (rgb, audio):
            codes[silent] = random.integers(lowest, 129, codes[silent].shape)
    sharp = draw(st.sampled_from([0.0, 1.0, 30.0]))
    assign = softmax(sharp * random.standard_normal((videos, frames, CLUSTERS)))
    return rgb, audio, num_frames, assign * real(num_frames, frames)[:, :, None]


@given(case=cases())
def test_products_are_those_of_normalised_frames_up_to_rounding(run: Run, case: tuple[np.ndarray, ...]):
    rgb, audio, num_frames, assign = case
    found, exact = run(*case), normalised(rgb, audio, num_frames)
    rgb_BTD = exact[:, :, :20]
    for kind in ("", "float "):
        np.testing.assert_allclose(found[f"{kind}values"], exact, atol=1e-5)
        exact_BKD = np.swapaxes(assign, 1, 2) @ rgb_BTD**2
        np.testing.assert_allclose(found[f"{kind}squares"], exact_BKD, atol=1e-5, rtol=1e-5)
    exact_BKD = np.swapaxes(assign, 1, 2) @ rgb_BTD * SCALE
    np.testing.assert_allclose(found["float sums"], exact_BKD, atol=1e-5, rtol=1e-5)
    # Half a step of each weight.
    weights = quantized_weights().dequantize().double().numpy()
    step_K = np.abs(weights).max(0) / 64
    logits_BTK = rgb_BTD @ weights + np.arange(CLUSTERS)
    bound_BTK = np.abs(rgb_BTD).sum(2)[:, :, None] * (step_K / 2 + 1e-5 * step_K) + 1e-5 * (1 + step_K)
    assert (np.abs(found["logits"] - logits_BTK) <= bound_BTK).all()
    np.testing.assert_allclose(found["same"], found["logits"], rtol=1e-5, atol=1e-5)
    # Less than a step of each assignment that is not zero, and what a byte lacks to whole steps from 127.
    values_BTD = dequantized(rgb, audio)[:, :, :20] * 255 / 4
    factor_BT1 = np.abs(rgb_BTD).max(2, keepdims=True) / np.abs(values_BTD).max(2, keepdims=True)
    gain_BT1 = np.maximum(1, np.floor(127 / np.abs(values_BTD).max(2, keepdims=True)))
    step_B1K = (assign * factor_BT1 / gain_BT1).max(1, keepdims=True) / 126
    bound_BKD = np.swapaxes((assign > 0) * step_B1K, 1, 2) @ np.abs(values_BTD * gain_BT1)
    lacking_BTD = np.where(gain_BT1 > 127, 0, 0.002) * factor_BT1
    bound_BKD += np.swapaxes(assign, 1, 2) @ lacking_BTD
    error_BKD = np.abs(found["sums"] - exact_BKD)
    assert (error_BKD <= 1.001 * bound_BKD * np.abs(SCALE) + 1e-5).all()


def test_values_are_those_of_pytorch(run: Run):
    random = np.random.default_rng(0)
    rgb, audio = (random.integers(0, 256, (3, 7, size), dtype=np.uint8) for size in (20, 12))
    num_frames = np.array([7, 1, 4])
    frames = {"rgb": torch.from_numpy(rgb), "audio": torch.from_numpy(audio)}
    expected = prepare_frames(frames, SPEC, torch.from_numpy(real(num_frames, 7)))
    found = run(rgb, audio, num_frames, np.zeros((3, 7, CLUSTERS)))["values"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("small", [0.001, 0.003, 0.0039, 0.1])
def test_many_small_assignments_count_as_much_as_they_are(small: float, run: Run):
    """Of 300 frames one is a cluster's and the others hardly are, each less than half a level."""
    assign = np.full((1, 300, CLUSTERS), small)
    assign[0, 17] = 1
    rgb, audio = np.full((1, 300, 20), 200, dtype=np.uint8), np.full((1, 300, 12), 30, dtype=np.uint8)
    num_frames = np.array([300])
    sums_KD = run(rgb, audio, num_frames, assign)["sums"][0]
    exact_D = (1 + 299 * small) * normalised(rgb, audio, num_frames)[0, 0, :20] * SCALE
    # The pattern is even to a few levels of 126.
    np.testing.assert_allclose(sums_KD, np.broadcast_to(exact_D, sums_KD.shape), atol=2.5 / 126 * np.abs(exact_D).max())


@pytest.mark.parametrize("silent", [1, 30, 150])
@pytest.mark.parametrize("level", [127, 128])
def test_frames_of_no_signal_leave_the_others_as_they_are(level: int, silent: int, run: Run):
    random = np.random.default_rng(2)
    rgb, audio = (random.integers(0, 256, (1, 300, size), dtype=np.uint8) for size in (20, 12))
    for codes in (rgb, audio):
        codes[0, :silent] = level
    num_frames = np.array([300])
    assign = softmax(3 * random.standard_normal((1, 300, CLUSTERS)))
    exact_KD = assign[0].T @ normalised(rgb, audio, num_frames)[0, :, :20] * SCALE
    error_KD = run(rgb, audio, num_frames, assign)["sums"][0] - exact_KD
    assert np.linalg.norm(error_KD) < 0.01 * np.linalg.norm(exact_KD)


def test_a_video_depends_neither_on_its_batch_nor_on_what_follows_its_end(run: Run):
    random = np.random.default_rng(1)
    rgb, audio = (random.integers(0, 256, (5, 30, size), dtype=np.uint8) for size in (20, 12))
    lengths = np.array([30, 1, 12, 29, 7])
    assign = softmax(3 * random.standard_normal((5, 30, CLUSTERS))) * real(lengths, 30)[:, :, None]
    together = run(rgb, audio, lengths, assign)
    for video, length in enumerate(lengths):
        own = slice(video, video + 1), slice(0, length)
        alone = run(rgb[own], audio[own], lengths[own[0]], assign[own])
        for name in ("sums", "squares"):
            np.testing.assert_allclose(alone[name][0], together[name][video], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone["logits"], together["logits"][own], rtol=1e-5, atol=1e-5)
