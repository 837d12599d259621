"""Scans over stored codes: against the same recurrence in NumPy, float64, with the dequantised weights."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxscript.optimizer
import pytest
import torch
from torch import nn

from tests.export.exporting import exported
from vidfit.export.recurrent import StoredLayer, expand_placeholders
from vidfit.kernels.recurrent import Cell
from vidfit.models.recurrent import Layer
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

INPUTS, CELLS = 48, 64


class Exported(nn.Module):
    def __init__(self, layer: StoredLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs_TBD: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer.onnx(inputs_TBD, lengths_B)


def quantised_layer(cell: Cell, scheme: QuantScheme, *, bidirectional: bool) -> tuple[Layer, list[QuantizedTensor]]:
    torch.manual_seed(1)
    layer = Layer(cell, INPUTS, CELLS, bidirectional=bidirectional)
    layer.reset_parameters()
    return layer, [quantize(direction.weights.detach(), scheme) for direction in layer.directions]


def session(stored: StoredLayer, path: Path) -> onnxruntime.InferenceSession:
    frames, videos = torch.export.Dim("frames"), torch.export.Dim("videos")
    inputs = (torch.zeros(3, 2, INPUTS), torch.tensor([3, 2], dtype=torch.int32))
    proto = exported(Exported(stored), inputs, ["inputs", "lengths"], ({0: frames, 1: videos}, {0: videos}))
    proto = onnxscript.optimizer.optimize(proto, input_size_limit=64, output_size_limit=64)
    expand_placeholders(proto)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return onnxruntime.InferenceSession(path)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(cell: Cell, weights: np.ndarray, biases: np.ndarray, frames_TD: np.ndarray) -> tuple[np.ndarray, ...]:
    """Outputs `[T, H]` and final state of one video, one direction; PyTorch's definitions of LSTM and GRU."""
    state, memory, outputs = np.zeros(CELLS), np.zeros(CELLS), []
    for frame_D in frames_TD:
        from_frame = np.split(frame_D @ weights[:INPUTS] + biases, 4 if cell == "lstm" else 3)
        from_state = np.split(state @ weights[INPUTS:], len(from_frame))
        if cell == "lstm":
            i, f, g, o = (x + h for x, h in zip(from_frame, from_state, strict=True))
            memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
            state = sigmoid(o) * np.tanh(memory)
        else:
            (xr, xz, xn), (hr, hz, hn) = from_frame, from_state
            update = sigmoid(xz + hz)
            state = (1 - update) * np.tanh(xn + sigmoid(xr + hr) * hn) + update * state
        outputs.append(state)
    return np.array(outputs), memory if cell == "lstm" else state


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("scheme", ["8", "8/channel", "4/channel", "7"])
def test_a_layer_is_the_recurrence_up_to_rounding(cell: Cell, scheme: str, tmp_path: Path):
    layer, weights = quantised_layer(cell, QuantScheme.parse(scheme), bidirectional=True)
    stored = StoredLayer.of(layer, weights)
    assert stored is not None
    random = np.random.default_rng(0)
    inputs_TBD = random.standard_normal((7, 4, INPUTS)).astype(np.float32)
    lengths_B = np.array([7, 3, 1, 5], np.int32)
    outputs_TBH, states_RBH = (
        np.asarray(it)
        for it in session(stored, tmp_path / "layer.onnx").run(None, {"inputs": inputs_TBD, "lengths": lengths_B})
    )
    for place, (direction, tensor) in enumerate(zip(layer.directions, weights, strict=True)):
        values, biases = tensor.dequantize().double().numpy(), direction.biases.detach().double().numpy()
        cells = slice(place * CELLS, (place + 1) * CELLS)
        for video, length in enumerate(lengths_B):
            frames_TD = inputs_TBD[:length, video].astype(np.float64)
            expected_TH, state_H = reference(cell, values, biases, frames_TD[::-1] if place else frames_TD)
            found_TH = outputs_TBH[:length, video, cells]
            # A state has steps of 1/63 and a frame of 1/127 of its range; what is summed over inputs is near 1.
            np.testing.assert_allclose(found_TH[::-1] if place else found_TH, expected_TH, atol=0.03)
            np.testing.assert_allclose(states_RBH[place, video], state_H, atol=0.03)
            assert np.abs(states_RBH[place, video] - state_H).mean() < 0.006 < np.abs(state_H).mean() / 5


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_neither_padding_nor_other_videos_change_a_state(cell: Cell, tmp_path: Path):
    layer, weights = quantised_layer(cell, QuantScheme(bits=8), bidirectional=False)
    stored = StoredLayer.of(layer, weights)
    assert stored is not None
    run = session(stored, tmp_path / "layer.onnx").run
    inputs_TBD = np.random.default_rng(0).standard_normal((9, 5, INPUTS)).astype(np.float32)
    lengths_B = np.array([9, 2, 4, 1, 7], np.int32)
    _, together = run(None, {"inputs": inputs_TBD, "lengths": lengths_B})
    for video, length in enumerate(lengths_B):
        own = {"inputs": inputs_TBD[:length, video : video + 1], "lengths": lengths_B[video : video + 1]}
        np.testing.assert_array_equal(np.asarray(run(None, own)[1])[0, 0], np.asarray(together)[0, video])


def test_float_weights_have_no_scan():
    layer, _ = quantised_layer("gru", QuantScheme(bits=8), bidirectional=False)
    assert StoredLayer.of(layer, [None]) is None
