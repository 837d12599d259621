"""Recurrent layers on stored codes: ONNX's LSTM and GRU take floats only, so a layer is a matmul and a `Scan`.

The matmul is that of all frames with the input weights. Each step of the scan multiplies the state, in bytes, with the
state weights: `MatMulInteger`, whose rows do not disturb each other as those of ONNX Runtime's DynamicQuantizeLSTM do.
A state lies in (-1, 1), so its levels are the same for all videos and steps. Padded frames leave it as it was.

PyTorch's exporter knows no Scan: it writes a placeholder, `vidfit::Recurrent`, for which `expand_placeholders` puts the
scan. Gates stay in PyTorch's order (LSTM i, f, g, o; GRU r, z, n).

Shapes: B videos, T frames, D input features, H cells, G gates times cells, R directions.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx
import onnx.parser
import torch
from onnx import helper
from torch import Tensor, nn

from vidfit.compression.quantize import QuantizedTensor
from vidfit.compression.state import Quantized
from vidfit.models.recurrent import Cell, Layer
from vidfit.packing.forms import Blocks, Bytes, form_of, nbits

_DOMAIN = "vidfit"
# 127 levels over [-1, 1]: 7 bits, as in `matrix.py`.
_STEPS = 63

_BYTES = f"""
    step = Constant<value_float = {1 / _STEPS}>()
    zero = Constant<value = uint8 {{{(_STEPS + 1)}}}>()
    bytes = QuantizeLinear(state, step, zero)
    sums_of_products = MatMulInteger(bytes, part_0, zero)
    steps = Cast<to = 1>(sums_of_products)
    products = Mul(steps, step)"""
_TOTAL = """
    axis = Constant<value_ints = [1]>()
    total = ReduceSum<keepdims = 1>(state, axis)"""
_AFFINE = """
    scaled = Mul(products, scale)
    shift = Mul(total, offset)
    product = Add(scaled, shift)"""
_STEP = {
    "lstm": """step (float[B, H] state, float[B, H] cell, float[B, G] frame, bool[B, 1] live)
    => (float[B, H] next_state, float[B, H] next_cell, float[B, H] output) {
    PRODUCT
    sums = Add(product, frame)
    i, f, g, o = Split<axis = 1, num_outputs = 4>(sums)
    input_gate = Sigmoid(i)
    forget_gate = Sigmoid(f)
    candidate = Tanh(g)
    output_gate = Sigmoid(o)
    kept = Mul(forget_gate, cell)
    added = Mul(input_gate, candidate)
    new_cell = Add(kept, added)
    squashed = Tanh(new_cell)
    new_state = Mul(output_gate, squashed)
    next_cell = Where(live, new_cell, cell)
    next_state = Where(live, new_state, state)
    output = Identity(next_state)
    }""",
    "gru": """step (float[B, H] state, float[B, G] frame, bool[B, 1] live)
    => (float[B, H] next_state, float[B, H] output) {
    PRODUCT
    r, z, n = Split<axis = 1, num_outputs = 3>(product)
    frame_r, frame_z, frame_n = Split<axis = 1, num_outputs = 3>(frame)
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
    output = Identity(next_state)
    }""",
}


class StoredDirection(nn.Module):
    """One direction of a layer, the weights of inputs and of the state apart.

    Arguments:
        biases_G: of the gates.
        inputs: `[D, G]`.
        state: `[H, G]`.
    """

    biases_G: Tensor

    def __init__(self, biases_G: Tensor, inputs: Bytes | Blocks, state: Bytes | Blocks) -> None:
        super().__init__()
        self.register_buffer("biases_G", biases_G.detach())
        self.inputs, self.state = inputs, state

    def forward(self, inputs_TBD: Tensor, live_TB1: Tensor, cell: Cell, *, reverse: bool) -> tuple[Tensor, Tensor]:
        """float32 `[T, B, D]`, bool `[T, B, 1]` -> outputs `[T, B, H]`, final state (an LSTM's cell) `[B, H]`."""
        max_frames, batch, _ = inputs_TBD.shape
        cells = self.state.shape[0]
        frames_NG = self.inputs.multiply(inputs_TBD.flatten(0, 1), terms=1) + self.biases_G
        frames_TBG = frames_NG.unflatten(0, (max_frames, batch))
        match self.state:
            case Bytes(codes_IO=codes_HG):
                widths, parts = [8], [codes_HG]
            case Blocks() as blocks:
                widths, parts = list(blocks.widths), [*blocks.parts_ONS, blocks.ones()]
        scale, offset = self.state.scale.float(), self.state.offset.float()
        outputs_TBH, state_BH = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::Recurrent",
            (inputs_TBD.new_zeros(batch, cells), frames_TBG, live_TB1, scale, offset, *parts),
            {"cell": cell, "reverse": int(reverse), "widths": widths, "cells": cells, "gates": len(self.biases_G)},
            dtypes=[inputs_TBD.dtype] * 2,
            shapes=[(max_frames, batch, cells), (batch, cells)],
            version=1,
        )
        return outputs_TBH, state_BH


class StoredLayer(nn.Module):
    """What stands for a `Layer` in a graph."""

    def __init__(self, cell: Cell, directions: Sequence[StoredDirection]) -> None:
        super().__init__()
        self.cell: Cell = cell
        self.directions = nn.ModuleList(directions)

    @classmethod
    def of(cls, layer: Layer, weights: Sequence[Quantized | None], *, portable: bool) -> "StoredLayer | None":
        """The layer with these weights of its directions; None where they can only be expanded."""
        directions = []
        for direction, tensor in zip(layer.directions, weights, strict=True):
            if not isinstance(tensor, QuantizedTensor) or (tensor.scale.dim() == 2 and len(tensor.scale) > 1):
                return None
            sizes = (direction.input_size, direction.cells)
            parts = [form_of(replace(tensor, codes=codes), portable=portable) for codes in tensor.codes.split(sizes)]
            match parts:
                case [Bytes() | Blocks() as inputs, Bytes() | Blocks() as state]:
                    directions.append(StoredDirection(direction.biases, inputs, state))
                case _:
                    return None
        return cls(layer.cell, directions)

    def onnx(self, inputs_TBD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """As `Layer.onnx`: outputs `[T, B, R * H]` and the final state `[R, B, H]`."""
        live_TB1 = (torch.arange(inputs_TBD.shape[0])[:, None] < lengths_B)[:, :, None]
        pairs = [
            direction(inputs_TBD, live_TB1, self.cell, reverse=bool(number))
            for number, direction in enumerate(self.directions)
        ]
        return torch.cat([outputs for outputs, _ in pairs], dim=2), torch.stack([state for _, state in pairs])


def expand_placeholders(model: onnx.ModelProto) -> None:
    """Put scans in the place of recurrent placeholders."""
    for node in model.graph.node:
        if node.domain == _DOMAIN:
            _expand(node)
    kept = [opset for opset in model.opset_import if opset.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _expand(node: onnx.NodeProto) -> None:
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    cell, reverse = options["cell"].decode(), options["reverse"]
    start, frames, live, scale, offset, *parts = node.input
    outputs, state = node.output
    body = onnx.parser.parse_graph(_STEP[cell].replace("PRODUCT", _TOTAL + _product(options) + _AFFINE))
    outer = {"scale": scale, "offset": offset, **{f"part_{place}": part for place, part in enumerate(parts)}}
    # Names of an inner graph must not be those of the outer one.
    for inner in body.node:
        inner.input[:] = [outer.get(name, f"{state}/{name}") for name in inner.input]
        inner.output[:] = [f"{state}/{name}" for name in inner.output]
    for value in (*body.input, *body.output):
        value.name = f"{state}/{value.name}"
    # An LSTM carries its output and its cell, which is what the head sees.
    unseen = [f"{state}/state"] if cell == "lstm" else []
    scan = helper.make_node(
        "Scan",
        [start] * (1 + len(unseen)) + [frames, live],
        [*unseen, state, outputs],
        name=node.name,
        body=body,
        num_scan_inputs=2,
        scan_input_directions=[reverse] * 2,
        scan_output_directions=[reverse],
    )
    node.CopyFrom(scan)


def _product(options: dict[str, Any]) -> str:
    """`products = state @ codes` of one step."""
    widths = options["widths"]
    if widths == [8]:
        return _BYTES
    products = []
    for place, width in enumerate(widths):
        attributes = nbits(options["cells"], options["gates"], width)
        written = ", ".join(f"{name} = {value}" for name, value in attributes.items())
        products.append(f"com.microsoft.MatMulNBits<{written}>(state, part_{place}, part_{len(widths)})")
    if len(widths) == 1:
        return f"\n    products = {products[0]}"
    high, low = products
    return f"""
    high = {high}
    low = {low}
    above = Constant<value_float = {2.0 ** widths[1]}>()
    middle = Constant<value_float = {2.0 ** (widths[1] - 1)}>()
    raised = Mul(high, above)
    both = Add(raised, low)
    from_middle = Mul(total, middle)
    products = Add(both, from_middle)"""
