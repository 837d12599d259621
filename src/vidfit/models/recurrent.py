"""Recurrent families, LSTM or GRU: a bidirectional layer with half the cells each way, then a forward layer.

With input x, state s and weights `[x, s] W + b`, split into gates in PyTorch's order:

    LSTM  i, f, g, o;  cell' = sigmoid(f) cell + sigmoid(i) tanh(g);  s' = sigmoid(o) tanh(cell')
    GRU   r, z, n;     s' = (1 - sigmoid(z)) tanh(n_x + sigmoid(r) n_s) + sigmoid(z) s

In a GRU n_x and n_s are the input's and the state's part of n. PyTorch applies the reset gate after the candidate's
matmul; the original applies it before. There is one bias per gate, where PyTorch and ONNX have two.

The head sees the final state of the forward layer: the cell of an LSTM, as in the original, or the output of a GRU. No
other family sees the order of frames. None is slower, as the steps of a sequence cannot run in parallel.

Shapes: B videos, T frames, D features, H cells, G gates (4 in an LSTM, 3 in a GRU), R directions.

Source: Hochreiter & Schmidhuber 1997 (LSTM), Cho et al. 2014 (GRU); layers as in Skalic & Austin 2018.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.recurrent import Cell, DirectionWeights, final_state, run_layer
from vidfit.models.heads import ContextGating


class RecurrentConfig(BaseModel):
    """Options of LSTM and GRU: a bidirectional layer with half the cells each way, then a forward layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Cell
    cells: int = Field(gt=0, multiple_of=2, description="H, the size of the vector that the head reads; winners: 1024")
    gating: bool = Field(default=False, description="context gating of the final state, with a bias, not a batch norm")


class Direction(nn.Module):
    """The weights of one layer in one direction.

    Inputs and state share a matrix, as in the original: gradients are clipped and weights quantised per matrix.

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

    def parts(self) -> DirectionWeights:
        """Input weights `[D, G * H]`, state weights `[H, G * H]` and biases `[G * H]`."""
        input_weights, state_weights = self.weights.split([self.input_size, self.cells])
        return DirectionWeights(input_weights, state_weights, self.biases)


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

    def reset_parameters(self) -> None:
        """Glorot uniform weights, as in the original; a GRU's gates and candidate count as two matrices.

        Biases are 0, except those of an LSTM's forget gate (the original adds 1 at run time) and of a GRU's two gates.
        These are 1, so that a fresh cell keeps its state.
        """
        cells = self.cells
        for direction in self.directions:
            nn.init.zeros_(direction.biases)
            if self.cell == "lstm":
                nn.init.xavier_uniform_(direction.weights)
                nn.init.ones_(direction.biases[cells : 2 * cells])
            else:
                nn.init.xavier_uniform_(direction.weights[:, : 2 * cells])
                nn.init.xavier_uniform_(direction.weights[:, 2 * cells :])
                nn.init.ones_(direction.biases[: 2 * cells])

    def forward(self, inputs: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs and final state of sequences without padding; see `kernels.recurrent.run_layer`."""
        parts = [direction.parts() for direction in self.directions]
        return run_layer(self.cell, parts, inputs, batch_sizes, self.training)


class Recurrent(nn.Module):
    """Frames to the head's input by two recurrent layers.

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
        self.bottom.reset_parameters()
        self.top.reset_parameters()

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
        """float32 `[B, T, D]` and frame weights `[B, T]` -> float32 `[B, H]`, or autocast's dtype.

        A video's frames come first and have weight 1; the slots after them have weight 0. None means no padding.
        """
        state_BH = final_state([self.bottom, self.top], frames_BTD, weights_BT)
        return state_BH if self.gating is None else self.gating(state_BH)
