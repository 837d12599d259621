"""Recurrent layers in a graph: ONNX's LSTM and GRU where weights are floats, a matmul and a `Scan` on stored codes.

`models/recurrent.py` has the formulas. ONNX's own operators take only floats. On stored codes, the matmul multiplies
all frames with the input weights. Each step of the scan multiplies the state, in bytes, with the state weights. It uses
`MatMulInteger`: its rows do not disturb each other, as they do in ONNX Runtime's DynamicQuantizeLSTM. A state lies in
(-1, 1), so its levels are the same for all videos and steps.

Padded frames leave a cell unchanged. Ignore an LSTM's outputs there. A backward pass outputs zeros before its first
frame, like the cell.

Corrections and biases are added step by step, while a frame is in the cache. Codes of less than 8 bits become bytes
when a file is loaded: the matrices are small, and MatMulNBits is slower.

Gates stay in PyTorch's order (LSTM i, f, g, o; GRU r, z, n), except in ONNX's operators.

Shapes: B videos, T frames, D input features, H cells, G gates times cells, R directions.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx.parser
import torch
from torch import Tensor

from vidfit.export.frames import Frames
from vidfit.export.graph_writer import GraphWriter, Value
from vidfit.export.layers import context_gating
from vidfit.export.slots import Slots
from vidfit.export.tensors import Tensors
from vidfit.export.weight_formats import FloatRows, Int8Weight, side_by_side
from vidfit.kernels.recurrent import Cell
from vidfit.models.recurrent import Direction, Layer, Recurrent
from vidfit.quantization.uniform import QuantizedTensor

# 127 levels over [-1, 1]: 7 bits, as in `weight_formats.py`.
_STEPS = 63

_PRODUCTS = f"""
    step = Constant<value_float = {1 / _STEPS}>()
    zero = Constant<value = uint8 {{{(_STEPS + 1)}}}>()
    bytes = QuantizeLinear(state, step, zero)
    sums_of_products = MatMulInteger(bytes, codes, zero)
    steps = Cast<to = 1>(sums_of_products)
    products = Mul(steps, scale)
    axis = Constant<value_ints = [1]>()
    total = ReduceSum<keepdims = 1>(state, axis)"""
_STEP = {
    "lstm": """step (float[B, H] state, float[B, H] cell, float[B, G] frame, float[B, 3] left, bool[B, 1] live)
    => (float[B, H] next_state, float[B, H] next_cell, float[B, H] output) {
    PRODUCTS
    all_left = Concat<axis = 1>(total, left)
    corrected = Gemm(all_left, right, frame)
    sums = Add(products, corrected)
    i, f, g, o = Split<axis = 1, num_outputs = 4>(sums)
    input_gate = Sigmoid(i)
    forget_gate = Sigmoid(f)
    candidate = Tanh(g)
    output_gate = Sigmoid(o)
    kept = Mul(forget_gate, cell)
    added = Mul(input_gate, candidate)
    new_cell = Add(kept, added)
    next_cell = Where(live, new_cell, cell)
    squashed = Tanh(next_cell)
    next_state = Mul(output_gate, squashed)
    output = Identity(next_state)
    }""",
    "gru": """step (float[B, H] state, float[B, G] frame, float[B, 3] left, bool[B, 1] live)
    => (float[B, H] next_state, float[B, H] new_state) {
    PRODUCTS
    product = Gemm(total, offset, products)
    corrected = Gemm(left, right, frame)
    r, z, n = Split<axis = 1, num_outputs = 3>(product)
    frame_r, frame_z, frame_n = Split<axis = 1, num_outputs = 3>(corrected)
    sum_r = Add(r, frame_r)
    reset_gate = Sigmoid(sum_r)
    sum_z = Add(z, frame_z)
    update_gate = Sigmoid(sum_z)
    remembered = Mul(reset_gate, n)
    sum_n = Add(remembered, frame_n)
    candidate = Tanh(sum_n)
    difference = Sub(state, candidate)
    kept = Mul(update_gate, difference)
    new_state = Add(candidate, kept)
    next_state = Where(live, new_state, state)
    }""",
}


def recurrent(family: Recurrent, tensors: Tensors, frames: Frames) -> Value:
    """Frames to the head's input: the final state of the upper layer, float32 `[B, H]`."""
    inputs_TBD = frames.values().permute(1, 0, 2)
    state_RBH = None
    for name, layer in (("bottom", family.bottom), ("top", family.top)):
        inputs_TBD, state_RBH = recurrent_layer(layer, tensors.within(name), inputs_TBD, frames.slots)
    assert state_RBH is not None
    state_BH = state_RBH.squeeze(0)
    return state_BH if family.gating is None else context_gating(tensors.within("gating"), state_BH)


def recurrent_layer(layer: Layer, tensors: Tensors, inputs_TBD: Value, slots: Slots) -> tuple[Value, Value]:
    """Outputs `[T, B, R * H]` and final states (an LSTM's cells) `[R, B, H]`."""
    names = ["ahead", "back"][: len(layer.directions)]
    own = [tensors.within(name) for name in names]
    if all(isinstance(direction["weights"], QuantizedTensor) for direction in own):
        return _stored_layer(layer, own, inputs_TBD, slots)
    return _float_layer(layer, own, inputs_TBD, slots)


def _float_layer(layer: Layer, directions: Sequence[Tensors], inputs_TBD: Value, slots: Slots) -> tuple[Value, Value]:
    """A layer as one node.

    Source: ONNX operators LSTM-14 (gates i, o, f, c) and GRU-14 (gates z, r, h).
    """
    lstm, graph = layer.cell == "lstm", inputs_TBD.graph
    order = (0, 3, 1, 2) if lstm else (1, 0, 2)
    matrices = [
        _sizes(direction, weights.floats("weights"))
        for direction, weights in zip(layer.directions, directions, strict=True)
    ]
    inputs_RGD, states_RGH = (
        torch.stack([_reordered(matrix.T, order) for matrix in matrices]) for matrices in zip(*matrices, strict=True)
    )
    biases_RG = torch.stack([_reordered(weights.floats("biases"), order) for weights in directions])
    options: dict[str, Any] = {} if lstm else {"linear_before_reset": 1}
    outputs_TRBH, *states_RBH = graph.add_node(
        layer.cell.upper(),
        [
            *(inputs_TBD, graph.constant(inputs_RGD, directions[0].name("inputs"))),
            *(graph.constant(states_RGH, directions[0].name("state")), torch.cat([biases_RG, 0 * biases_RG], dim=1)),
            slots.num_frames.cast(np.int32),
        ],
        outputs=3 if lstm else 2,
        hidden_size=layer.cells,
        direction="forward" if len(directions) == 1 else "bidirectional",
        **options,
    )
    outputs_TBR = outputs_TRBH.permute(0, 2, 1, 3).reshape(0, 0, len(directions) * layer.cells)
    return outputs_TBR, states_RBH[-1]


def _stored_layer(layer: Layer, directions: Sequence[Tensors], inputs_TBD: Value, slots: Slots) -> tuple[Value, Value]:
    """A layer on stored codes."""
    slots_T1 = slots.count(slots.slots).unsqueeze(1)
    live_TB1 = (slots_T1 < slots.num_frames).unsqueeze(2)
    pairs = [
        _stored_direction(layer, place == 1, direction, weights, inputs_TBD, live_TB1)
        for place, (direction, weights) in enumerate(zip(layer.directions, directions, strict=True))
    ]
    graph = inputs_TBD.graph
    states = [state_BH.unsqueeze(0) for _, state_BH in pairs]
    return graph.concat([outputs for outputs, _ in pairs], axis=2), graph.concat(states, axis=0)


def _stored_direction(
    layer: Layer, reverse: bool, direction: Direction, tensors: Tensors, inputs_TBD: Value, live_TB1: Value
) -> tuple[Value, Value]:
    """Outputs `[T, B, H]` and the final state (an LSTM's cell) `[B, H]`."""
    graph, weights = tensors.graph, tensors["weights"]
    assert isinstance(weights, QuantizedTensor)
    inputs, state = (
        Int8Weight(graph, tensors.name(name), replace(weights, codes=codes))
        for name, codes in zip(("inputs", "state"), _sizes(direction, weights.codes), strict=True)
    )
    sequence_2 = inputs_TBD.sizes(0, 2)
    frames_NI = FloatRows(inputs_TBD.reshape(-1, direction.input_size), direction.input_size)
    frames_NG, columns_N1, rows_G = inputs.uncorrected(frames_NI)
    left_N3, right_3G = side_by_side(columns_N1, rows_G, tensors.vector("biases"))
    frames_TBG, left_TB3 = (
        graph.add("Reshape", values, graph.concat([sequence_2, graph.integers(-1)], axis=0))
        for values in (frames_NG, left_N3)
    )
    offset_1G = state.offset_O.unsqueeze(0)
    # An LSTM's step adds everything in one matmul. A GRU cannot: its reset gate scales the state's part.
    right = graph.concat([offset_1G, right_3G], axis=0) if layer.cell == "lstm" else right_3G
    videos_1 = inputs_TBD.sizes(1, 2)
    start_BH = graph.add("Expand", 0.0, graph.concat([videos_1, graph.integers(layer.cells)], axis=0))
    outer = {"codes": state.codes_IO, "scale": state.scale / float(_STEPS), "offset": offset_1G, "right": right}
    return _scan(graph, layer.cell, reverse, start_BH, [frames_TBG, left_TB3, live_TB1], outer)


def _scan(
    graph: GraphWriter, cell: Cell, reverse: bool, start_BH: Value, sequences: Sequence[Value], outer: dict[str, Value]
) -> tuple[Value, Value]:
    """Run a cell over the frames: outputs `[T, B, H]` and the final state (an LSTM's cell) `[B, H]`."""
    body = onnx.parser.parse_graph(_STEP[cell].replace("PRODUCTS", _PRODUCTS))
    # Names in an inner graph must differ from those of the outer one.
    prefix = graph.name("step")
    for inner in body.node:
        inner.input[:] = [outer[name].name if name in outer else f"{prefix}/{name}" for name in inner.input]
        inner.output[:] = [f"{prefix}/{name}" for name in inner.output]
    for value in (*body.input, *body.output):
        value.name = f"{prefix}/{value.name}"
    # An LSTM carries its output and its cell; the head sees the cell.
    states = 2 if cell == "lstm" else 1
    *_, state_BH, outputs_TBH = graph.add_node(
        "Scan",
        [start_BH] * states + list(sequences),
        outputs=states + 1,
        body=body,
        num_scan_inputs=len(sequences),
        scan_input_directions=[int(reverse)] * len(sequences),
        scan_output_directions=[int(reverse)],
    )
    return outputs_TBH, state_BH


def _sizes(direction: Direction, weights: Tensor) -> tuple[Tensor, ...]:
    """The part of the inputs, `[D, G]`, and that of the state, `[H, G]`."""
    return weights.split([direction.input_size, direction.cells])


def _reordered(part: Tensor, order: Sequence[int]) -> Tensor:
    """The gates of the first axis in another order."""
    gates = part.chunk(len(order))
    return torch.cat([gates[gate] for gate in order])
