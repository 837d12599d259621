"""Recurrent families: a bidirectional layer of half the cells each way, then a forward layer; LSTM or GRU.

The head sees the final state of the forward layer: the cell state of an LSTM (as in the original), the output of a GRU.
It is the only family that sees the order of frames, and the slowest: steps of a sequence cannot run side by side. Where
all videos of a batch are equally long (frames sampled in training) a plain call does; else sequences are packed. A GRU
then trains on a CPU by `gru.py`, in two thirds of PyTorch's time; the LSTM there is oneDNN's, and fast already.

The GRU is PyTorch's: the reset gate is applied after the candidate's matmul, where the original's comes before it.
There is one bias a gate. PyTorch and ONNX have two of them; the second, of the recurrent matmul, is zero.

Packed sequences do not export: in an export a layer of float weights is ONNX's own LSTM or GRU node with its
`sequence_lens` (of quantised ones: `export/recurrent.py`).

Shapes: B videos, T frames, D features, H cells, G gates (4 in an LSTM, 3 in a GRU), R directions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.gru import gru
from vidfit.models.heads import ContextGating

Cell = Literal["lstm", "gru"]
_PRECISION = Lock()


class RecurrentConfig(BaseModel):
    """Sizes and options of the recurrent families.

    Attributes:
        type: kind of cell.
        cells: H, even; what the head sees (the winners: 1024).
        gating: context gating of the final state, with a bias instead of a batch norm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Cell
    cells: Annotated[int, Field(gt=0, multiple_of=2)]
    gating: bool = False


class Direction(nn.Module):
    """The weights of one layer in one direction, in PyTorch's gate order (LSTM i, f, g, o; GRU r, z, n).

    Inputs and state share a matrix, as in the original: gradients are clipped and weights quantised a matrix at a time.

    Arguments:
        gates: G.
        input_size: D, length of the layer's input vectors.
        cells: H.
    """

    def __init__(self, gates: int, input_size: int, cells: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.cells = cells
        self.weights = nn.Parameter(torch.empty(input_size + cells, gates * cells))
        self.biases = nn.Parameter(torch.empty(gates * cells))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Input weights `[G * H, D]`, state weights `[G * H, H]` and biases `[G * H]`, as PyTorch and ONNX want."""
        input_weights, state_weights = self.weights.split([self.input_size, self.cells])
        return input_weights.T, state_weights.T, self.biases


class Layer(nn.Module):
    """One recurrent layer, forward or bidirectional.

    Arguments:
        cell: `lstm` or `gru`.
        input_size: D, length of the input vectors.
        cells: H, in each direction.
        bidirectional: R is 2 instead of 1.
    """

    def __init__(self, cell: Cell, input_size: int, cells: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.cell: Cell = cell
        self.cells = cells
        gates = 4 if cell == "lstm" else 3
        self.ahead = Direction(gates, input_size, cells)
        self.back = Direction(gates, input_size, cells) if bidirectional else None

    @property
    def directions(self) -> list[Direction]:
        """R of them."""
        return [self.ahead] if self.back is None else [self.ahead, self.back]

    def forward(self, inputs: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Runs over sequences without padding.

        Arguments:
            inputs: float32 `[B, T, D]`, or a packed sequence's data with its `batch_sizes`.
            batch_sizes: int64 on the CPU, or None where `inputs` is `[B, T, D]`.

        Returns:
            Outputs, shaped as `inputs` with R * H for D, and the final state (cell state of an LSTM) `[R, B, H]`;
            float32, under autocast of its dtype.
        """
        if self.cell == "gru" and batch_sizes is None and self.training and inputs.device.type == "cpu":
            return self._gru(inputs)
        kind = inputs.device.type
        # Autocast would take cuDNN's layers to float16, whatever it was told.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        # TF32, cuDNN's own choice, is near enough for gradients; but predictions would depend on the batch's size.
        exact = kind == "cuda" and dtype == torch.float32 and not self.training
        with torch.autocast(kind, enabled=False), _without_tf32() if exact else nullcontext():
            return self._run(inputs.to(dtype), batch_sizes)

    def _run(self, inputs: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `forward` does, by PyTorch's layers, in the inputs' precision."""
        weights = self._weights(inputs.dtype)
        batch = len(inputs) if batch_sizes is None else int(batch_sizes[0])
        start_RBH = inputs.new_zeros(len(self.directions), batch, self.cells)
        # Shared by all forms: biases, one layer, no dropout, training, bidirectional.
        options = (True, 1, 0.0, self.training, self.back is not None)
        if self.cell == "lstm":
            start = (start_RBH, start_RBH)
            if batch_sizes is None:
                outputs, _, state_RBH = torch.lstm(inputs, start, weights, *options, batch_first=True)
            else:
                outputs, _, state_RBH = torch.lstm(inputs, batch_sizes, start, weights, *options)
        elif batch_sizes is None:
            outputs, state_RBH = torch.gru(inputs, start_RBH, weights, *options, batch_first=True)
        else:
            outputs, state_RBH = torch.gru(inputs, batch_sizes, start_RBH, weights, *options)
        return outputs, state_RBH

    def _weights(self, dtype: torch.dtype) -> list[Tensor]:
        """Two matrices and two biases a direction, the second one zeros, as PyTorch's layers take them.

        They lie side by side, matrices before biases, as cuDNN wants them: PyTorch would put others together at every
        call, and warn of it.
        """
        matrices, biases = [], []
        for direction in self.directions:
            input_weights, state_weights, own_biases = direction.parts()
            matrices += [input_weights, state_weights]
            biases += [own_biases, torch.zeros_like(own_biases)]
        parts = matrices + biases
        flat = torch.cat([part.to(dtype).flatten() for part in parts])
        pieces = flat.split([part.numel() for part in parts])
        views = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
        weights: list[Tensor] = []
        for start in range(0, len(matrices), 2):
            weights += views[start : start + 2] + views[len(matrices) + start :][:2]
        return weights

    def _gru(self, inputs_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` does, by our own GRU."""
        outputs, states = [], []
        for direction in self.directions:
            inputs_TBD = inputs_BTD.transpose(0, 1)
            if direction is self.back:
                inputs_TBD = inputs_TBD.flip(0)
            input_weights, state_weights = direction.weights.split([direction.input_size, self.cells])
            states_TBH = gru(inputs_TBD, input_weights, state_weights, direction.biases)
            states.append(states_TBH[-1])
            outputs.append(states_TBH.flip(0) if direction is self.back else states_TBH)
        return torch.cat(outputs, dim=2).transpose(0, 1), torch.stack(states)

    def onnx(self, inputs_TBD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The same as one ONNX node, for an export.

        Arguments:
            inputs_TBD: float32, padded.
            lengths_B: int32.

        Returns:
            Outputs `[T, B, R * H]` and the final state `[R, B, H]`.

        Source: ONNX operators LSTM-14 (gates i, o, f, c) and GRU-14 (gates z, r, h).
        """
        order = (0, 3, 1, 2) if self.cell == "lstm" else (1, 0, 2)
        parts = [[reorder(part, order) for part in direction.parts()] for direction in self.directions]
        input_weights, state_weights, biases = (torch.stack(directions) for directions in zip(*parts, strict=True))
        max_frames, batch, _ = inputs_TBD.shape
        state_shape = (len(self.directions), batch, self.cells)
        states = 2 if self.cell == "lstm" else 1
        outputs_TRBH, *states_RBH = torch.onnx.ops.symbolic_multi_out(
            self.cell.upper(),
            (inputs_TBD, input_weights, state_weights, torch.cat([biases, torch.zeros_like(biases)], dim=1), lengths_B),
            {
                "hidden_size": self.cells,
                "direction": "forward" if self.back is None else "bidirectional",
                **({"linear_before_reset": 1} if self.cell == "gru" else {}),
            },
            dtypes=[inputs_TBD.dtype] * (1 + states),
            shapes=[(max_frames, *state_shape)] + [state_shape] * states,
        )
        return outputs_TRBH.transpose(1, 2).flatten(2), states_RBH[-1]


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Recurrent layers on a GPU multiply in float32. The setting is the process's, so threads take turns."""
    cudnn: Any = torch.backends.cudnn.rnn
    with _PRECISION:
        before = cudnn.fp32_precision
        cudnn.fp32_precision = "ieee"
        try:
            yield
        finally:
            cudnn.fp32_precision = before


def reorder(part: Tensor, order: Sequence[int]) -> Tensor:
    """Puts the G blocks of the first axis into another order."""
    gates = part.chunk(len(order))
    return torch.cat([gates[gate] for gate in order])


def reset_parameters(layer: Layer) -> None:
    """Initial weights of a layer, as in the original: Glorot uniform, a GRU's gates and candidate as two matrices.

    Biases are 0, but 1 for an LSTM's forget gate (the original adds that at run time) and for both gates of a GRU, so
    that a fresh cell keeps its state.
    """
    cells = layer.cells
    for direction in layer.directions:
        nn.init.zeros_(direction.biases)
        if layer.cell == "lstm":
            nn.init.xavier_uniform_(direction.weights)
            nn.init.ones_(direction.biases[cells : 2 * cells])
        else:
            nn.init.xavier_uniform_(direction.weights[:, : 2 * cells])
            nn.init.xavier_uniform_(direction.weights[:, 2 * cells :])
            nn.init.ones_(direction.biases[: 2 * cells])


class Recurrent(nn.Module):
    """Frames to the head's input by two recurrent layers.

    Source: Hochreiter & Schmidhuber 1997 (LSTM), Cho et al. 2014 (GRU); layers as in Skalic & Austin 2018.

    Arguments:
        config: kind of cell and sizes.
        spec: modalities of a frame.
    """

    def __init__(self, config: RecurrentConfig, spec: FeatureSpec) -> None:
        super().__init__()
        self.bottom = Layer(config.type, spec.total_size, config.cells // 2, bidirectional=True)
        self.top = Layer(config.type, config.cells, config.cells, bidirectional=False)
        self.gating = ContextGating(config.cells, batch_norm=False) if config.gating else None
        self.output_size = config.cells
        reset_parameters(self.bottom)
        reset_parameters(self.top)

    def forward(self, frames_BTD: Tensor, counts_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and counts `[B, T]` (or None: each slot counts once) -> float32 `[B, H]`.

        Under autocast the result is of its dtype. A video's frames are the first of its slots; each counts once, for
        their order matters.
        """
        if torch.compiler.is_exporting():
            assert counts_BT is not None
            lengths_B = counts_BT.sum(1).to(torch.int32)
            outputs_TBH, _ = self.bottom.onnx(frames_BTD.transpose(0, 1), lengths_B)
            _, state_RBH = self.top.onnx(outputs_TBH, lengths_B)
            state_BH = state_RBH[0]
        elif counts_BT is None or bool((counts_BT > 0).all()):
            outputs_BTH, _ = self.bottom(frames_BTD, None)
            _, state_RBH = self.top(outputs_BTH, None)
            state_BH = state_RBH[0]
        else:
            lengths_B = counts_BT.sum(1).long().cpu()
            packed = pack_padded_sequence(frames_BTD, lengths_B, batch_first=True, enforce_sorted=False)
            outputs, _ = self.bottom(packed.data, packed.batch_sizes)
            _, state_RBH = self.top(outputs, packed.batch_sizes)
            state_BH = state_RBH[0, packed.unsorted_indices]
        return state_BH if self.gating is None else self.gating(state_BH)
