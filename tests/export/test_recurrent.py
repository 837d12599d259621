"""Scans over stored codes: against the same recurrence in NumPy, float64, with the dequantised weights.

An export takes seconds, so all layers are in one graph.
"""

from collections.abc import Callable

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
# Both cells with one scale and with one per output, in 8 bits and in fewer.
LAYERS: list[tuple[Cell, str]] = [("lstm", "8"), ("lstm", "4/channel"), ("gru", "8/channel"), ("gru", "7")]
Run = Callable[[np.ndarray, np.ndarray], list[tuple[np.ndarray, np.ndarray]]]
every_layer = pytest.mark.parametrize("place", range(len(LAYERS)), ids=[f"{scheme}-{cell}" for cell, scheme in LAYERS])


class Exported(nn.Module):
    def __init__(self, layers: list[StoredLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs_TBD: torch.Tensor, lengths_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(it for layer in self.layers for it in layer.onnx(inputs_TBD, lengths_B))  # type: ignore[operator]


def quantised_layer(cell: Cell, scheme: str) -> tuple[Layer, list[QuantizedTensor]]:
    torch.manual_seed(1)
    layer = Layer(cell, INPUTS, CELLS, bidirectional=True)
    layer.reset_parameters()
    return layer, [quantize(direction.weights.detach(), QuantScheme.parse(scheme)) for direction in layer.directions]


@pytest.fixture(scope="module")
def run() -> Run:
    """Outputs `[T, B, R * H]` and final states `[R, B, H]` of each layer."""
    layers = [StoredLayer.of(*quantised_layer(*case)) for case in LAYERS]
    frames, videos = torch.export.Dim("frames"), torch.export.Dim("videos")
    inputs = (torch.zeros(3, 2, INPUTS), torch.tensor([3, 2], dtype=torch.int32))
    module = Exported([layer for layer in layers if layer is not None])
    proto = exported(module, inputs, ["inputs", "lengths"], ({0: frames, 1: videos}, {0: videos}))
    proto = onnxscript.optimizer.optimize(proto, input_size_limit=64, output_size_limit=64)
    expand_placeholders(proto)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString())

    def run(inputs_TBD: np.ndarray, lengths_B: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        found = list(map(np.asarray, session.run(None, {"inputs": inputs_TBD, "lengths": lengths_B})))
        return list(zip(found[::2], found[1::2], strict=True))

    return run


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


@every_layer
def test_a_layer_is_the_recurrence_up_to_rounding(place: int, run: Run):
    cell, scheme = LAYERS[place]
    layer, weights = quantised_layer(cell, scheme)
    random = np.random.default_rng(0)
    inputs_TBD = random.standard_normal((7, 4, INPUTS)).astype(np.float32)
    lengths_B = np.array([7, 3, 1, 5], np.int32)
    outputs_TBH, states_RBH = run(inputs_TBD, lengths_B)[place]
    for number, (direction, tensor) in enumerate(zip(layer.directions, weights, strict=True)):
        values, biases = tensor.dequantize().double().numpy(), direction.biases.detach().double().numpy()
        cells = slice(number * CELLS, (number + 1) * CELLS)
        for video, length in enumerate(lengths_B):
            frames_TD = inputs_TBD[:length, video].astype(np.float64)
            expected_TH, state_H = reference(cell, values, biases, frames_TD[::-1] if number else frames_TD)
            found_TH = outputs_TBH[:length, video, cells]
            # A state has steps of 1/63 and a frame of 1/127 of its range; what is summed over inputs is near 1.
            np.testing.assert_allclose(found_TH[::-1] if number else found_TH, expected_TH, atol=0.03)
            np.testing.assert_allclose(states_RBH[number, video], state_H, atol=0.03)
            assert np.abs(states_RBH[number, video] - state_H).mean() < 0.006 < np.abs(state_H).mean() / 5


@every_layer
def test_neither_padding_nor_other_videos_change_a_state(place: int, run: Run):
    inputs_TBD = np.random.default_rng(0).standard_normal((9, 5, INPUTS)).astype(np.float32)
    lengths_B = np.array([9, 2, 4, 1, 7], np.int32)
    _, together_RBH = run(inputs_TBD, lengths_B)[place]
    for video, length in enumerate(lengths_B):
        _, own_RBH = run(inputs_TBD[:length, video : video + 1], lengths_B[video : video + 1])[place]
        np.testing.assert_array_equal(own_RBH[:, 0], together_RBH[:, video])


def test_float_weights_have_no_scan():
    layer, _ = quantised_layer("gru", "8")
    assert StoredLayer.of(layer, [None, None]) is None
