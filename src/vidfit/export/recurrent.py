"""Recurrent layers on stored codes: a matmul and a `Scan`, because ONNX's LSTM and GRU take only floats.

The matmul multiplies all frames with the input weights. Each step of the scan multiplies the state, in bytes, with the
state weights. It uses `MatMulInteger`: its rows do not disturb each other, as they do in ONNX Runtime's
DynamicQuantizeLSTM. A state lies in (-1, 1), so its levels are the same for all videos and steps.

Padded frames leave a cell unchanged. Ignore an LSTM's outputs there. A backward pass outputs zeros before its first
frame, like the cell.

Corrections and biases are added step by step, while a frame is in the cache. Codes of less than 8 bits become bytes
when a file is loaded: the matrices are small, and MatMulNBits is slower.

PyTorch's exporter has no Scan. It writes a placeholder, `vidfit::Recurrent`, and `expand_placeholders` replaces it.
Gates stay in PyTorch's order (LSTM i, f, g, o; GRU r, z, n).

Shapes: B videos, T frames, D input features, H cells, G gates times cells, R directions.
"""

from collections.abc import Sequence
from dataclasses import replace

import onnx
import onnx.parser
import torch
from onnx import helper
from torch import Tensor, nn

from vidfit.export.weight_formats import Int8Weight, side_by_side
from vidfit.kernels.recurrent import Cell
from vidfit.models.recurrent import Layer
from vidfit.quantization.uniform import QuantizedTensor

_DOMAIN = "vidfit"
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


class StoredDirection(nn.Module):
    """One direction of a layer, with separate weights for inputs and state.

    Arguments:
        biases_G: biases of the gates.
        inputs: `[D, G]`.
        state: `[H, G]`.
    """

    biases_G: Tensor

    def __init__(self, biases_G: Tensor, inputs: Int8Weight, state: Int8Weight) -> None:
        super().__init__()
        self.register_buffer("biases_G", biases_G.detach())
        self.inputs, self.state = inputs, state

    def forward(self, inputs_TBD: Tensor, live_TB1: Tensor, cell: Cell, *, reverse: bool) -> tuple[Tensor, Tensor]:
        """float32 `[T, B, D]`, bool `[T, B, 1]` -> outputs `[T, B, H]`, final state (an LSTM's cell) `[B, H]`."""
        max_frames, batch, _ = inputs_TBD.shape
        cells = self.state.shape[0]
        frames_NG, columns_N1, rows_G = self.inputs.uncorrected(inputs_TBD.flatten(0, 1), terms=1)
        left_N3, right_3G = side_by_side(columns_N1, rows_G, self.biases_G)
        frames_TBG, left_TB3 = (values.unflatten(0, (max_frames, batch)) for values in (frames_NG, left_N3))
        scale, offset_G = self.state.affine()
        offset_1G = offset_G[None]
        # An LSTM's step adds everything in one matmul. A GRU cannot: its reset gate scales the state's part.
        right = torch.cat([offset_1G, right_3G]) if cell == "lstm" else right_3G
        outputs_TBH, state_BH = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::Recurrent",
            (
                *(inputs_TBD.new_zeros(batch, cells), frames_TBG, left_TB3, live_TB1),
                *(self.state.codes(), scale / _STEPS, offset_1G, right),
            ),
            {"cell": cell, "reverse": int(reverse)},
            dtypes=[inputs_TBD.dtype] * 2,
            shapes=[(max_frames, batch, cells), (batch, cells)],
            version=1,
        )
        return outputs_TBH, state_BH


class StoredLayer(nn.Module):
    """A `Layer` with stored weights, for export."""

    def __init__(self, cell: Cell, directions: Sequence[StoredDirection]) -> None:
        super().__init__()
        self.cell: Cell = cell
        self.directions = nn.ModuleList(directions)

    @classmethod
    def of(cls, layer: Layer, weights: Sequence[QuantizedTensor | None]) -> "StoredLayer | None":
        """The layer with these weights, one per direction. None if one is not quantised."""
        directions = []
        for direction, tensor in zip(layer.directions, weights, strict=True):
            if tensor is None:
                return None
            sizes = (direction.input_size, direction.cells)
            inputs, state = (Int8Weight(replace(tensor, codes=codes)) for codes in tensor.codes.split(sizes))
            directions.append(StoredDirection(direction.biases, inputs, state))
        return cls(layer.cell, directions)

    def onnx(self, inputs_TBD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """As `Layer.onnx`: outputs `[T, B, R * H]` and final states `[R, B, H]`."""
        live_TB1 = (torch.arange(inputs_TBD.shape[0])[:, None] < lengths_B)[:, :, None]
        pairs = [
            direction(inputs_TBD, live_TB1, self.cell, reverse=bool(number))
            for number, direction in enumerate(self.directions)
        ]
        return torch.cat([outputs for outputs, _ in pairs], dim=2), torch.stack([state for _, state in pairs])


def expand_placeholders(model: onnx.ModelProto) -> None:
    """Replace recurrent placeholders by scans."""
    for node in model.graph.node:
        if node.domain == _DOMAIN:
            _expand(node)
    kept = [opset for opset in model.opset_import if opset.domain != _DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _expand(node: onnx.NodeProto) -> None:
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    cell, reverse = options["cell"].decode(), options["reverse"]
    start, frames, left, live, *weights = node.input
    outputs, state = node.output
    body = onnx.parser.parse_graph(_STEP[cell].replace("PRODUCTS", _PRODUCTS))
    outer: dict[str, str] = dict(zip(("codes", "scale", "offset", "right"), weights, strict=True))
    # Names in an inner graph must differ from those of the outer one.
    for inner in body.node:
        inner.input[:] = [outer.get(name, f"{state}/{name}") for name in inner.input]
        inner.output[:] = [f"{state}/{name}" for name in inner.output]
    for value in (*body.input, *body.output):
        value.name = f"{state}/{value.name}"
    # An LSTM carries its output and its cell; the head sees the cell.
    unseen = [f"{state}/state"] if cell == "lstm" else []
    scan = helper.make_node(
        "Scan",
        [start] * (1 + len(unseen)) + [frames, left, live],
        [*unseen, state, outputs],
        name=node.name,
        body=body,
        num_scan_inputs=3,
        scan_input_directions=[reverse] * 3,
        scan_output_directions=[reverse],
    )
    node.CopyFrom(scan)
