"""Recurrent layers of a graph: against the same recurrence in NumPy, float64, with the dequantised weights."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.export.exporting import session
from tests.models.recurrences import recurrence
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.recurrent import recurrent_layer
from vidfit.export.slots import Slots
from vidfit.export.tensors import Tensors
from vidfit.kernels.recurrent import Cell
from vidfit.models.recurrent import Layer
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

INPUTS, CELLS = 48, 64
# Both cells with one scale and with one per output, in 8 bits and in fewer; and in floats.
LAYERS: list[tuple[Cell, str]] = [
    *(("lstm", "8"), ("lstm", "4/channel"), ("gru", "8/channel"), ("gru", "7")),
    *(("lstm", "floats"), ("gru", "floats")),
]
Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
every_layer = pytest.mark.parametrize(("cell", "scheme"), LAYERS, ids=[f"{scheme}-{cell}" for cell, scheme in LAYERS])


def stored_layer(cell: Cell, scheme: str) -> tuple[Layer, dict[str, Tensor | QuantizedTensor]]:
    torch.manual_seed(1)
    layer = Layer(cell, INPUTS, CELLS, bidirectional=True)
    layer.reset_parameters()
    state: dict[str, Tensor | QuantizedTensor] = {name: it.detach() for name, it in layer.named_parameters()}
    if scheme != "floats":
        for name, tensor in state.items():
            if name.endswith("weights") and isinstance(tensor, Tensor):
                state[name] = quantize(tensor, QuantScheme.parse(scheme))
    return layer, state


def written(cell: Cell, scheme: str) -> GraphWriter:
    """A graph of one layer: frames `[B, T, D]` to outputs `[T, B, R * H]` and final states `[R, B, H]`."""
    graph, (layer, state) = GraphWriter(), stored_layer(cell, scheme)
    inputs_TBD = graph.input("inputs", np.float32, ["frames", "videos", INPUTS])
    slots = Slots(graph, inputs_TBD.permute(1, 0, 2), graph.input("lengths", np.int64, ["videos"]))
    outputs, states = recurrent_layer(layer, Tensors(graph, state, "", portable=True), inputs_TBD, slots)
    graph.output(outputs, "outputs", ["frames", "videos", 2 * CELLS])
    graph.output(states, "states", [2, "videos", CELLS])
    return graph


@pytest.fixture(scope="module")
def opened() -> dict[tuple[Cell, str], onnxruntime.InferenceSession]:
    return {case: session(written(*case)) for case in LAYERS}


@pytest.fixture
def run(cell: Cell, scheme: str, opened: dict[tuple[Cell, str], onnxruntime.InferenceSession]) -> Run:
    def run(inputs_TBD: np.ndarray, lengths_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs, states = opened[cell, scheme].run(None, {"inputs": inputs_TBD, "lengths": lengths_B})
        return np.asarray(outputs), np.asarray(states)

    return run


@every_layer
def test_a_layer_is_the_recurrence_up_to_rounding(cell: Cell, scheme: str, run: Run):
    layer, state = stored_layer(cell, scheme)
    random = np.random.default_rng(0)
    inputs_TBD = random.standard_normal((7, 4, INPUTS)).astype(np.float32)
    lengths_B = np.array([7, 3, 1, 5])
    outputs_TBH, states_RBH = run(inputs_TBD, lengths_B)
    # A state has steps of 1/63 and a frame of 1/127 of its range; what is summed over inputs is near 1.
    most, mean = (1e-5, 1e-6) if scheme == "floats" else (0.03, 0.006)
    for number, (name, direction) in enumerate(zip(("ahead", "back"), layer.directions, strict=True)):
        tensor = state[f"{name}.weights"]
        floats = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
        values, biases = floats.double().numpy(), direction.biases.detach().double().numpy()
        cells = slice(number * CELLS, (number + 1) * CELLS)
        for video, length in enumerate(lengths_B):
            frames_TD = inputs_TBD[:length, video].astype(np.float64)
            expected_TH, state_H = recurrence(cell, values, biases, frames_TD[::-1] if number else frames_TD)
            found_TH = outputs_TBH[:length, video, cells]
            np.testing.assert_allclose(found_TH[::-1] if number else found_TH, expected_TH, atol=most)
            np.testing.assert_allclose(states_RBH[number, video], state_H, atol=most)
            assert np.abs(states_RBH[number, video] - state_H).mean() < mean < np.abs(state_H).mean() / 5


@every_layer
def test_neither_padding_nor_other_videos_change_a_state(scheme: str, run: Run):
    inputs_TBD = np.random.default_rng(0).standard_normal((9, 5, INPUTS)).astype(np.float32)
    lengths_B = np.array([9, 2, 4, 1, 7])
    _, together_RBH = run(inputs_TBD, lengths_B)
    for video, length in enumerate(lengths_B):
        _, own_RBH = run(inputs_TBD[:length, video : video + 1], lengths_B[video : video + 1])
        tolerance = 1e-6 if scheme == "floats" else 0
        np.testing.assert_allclose(own_RBH[:, 0], together_RBH[:, video], rtol=0, atol=tolerance)


@every_layer
def test_stored_codes_run_in_a_scan_and_floats_in_one_operator(cell: Cell, scheme: str):
    graph = written(cell, scheme)
    onnx.checker.check_model(graph.serialise() and graph.model)
    loops = [node.op_type for node in graph.model.graph.node if node.op_type in ("Scan", "LSTM", "GRU")]
    assert loops == ([cell.upper()] if scheme == "floats" else ["Scan"] * 2)
