"""Run recurrent layers fast: by cuDNN or oneDNN, by our own GRU in training on a CPU.

`models/recurrent.py` has the formulas and the layout of the weights.

Shapes: B videos, T frames, D features, H cells, G gates (4 in an LSTM, 3 in a GRU), R directions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from vidfit.kernels.gru import gru

Cell = Literal["lstm", "gru"]
_PRECISION = Lock()


class DirectionWeights(NamedTuple):
    """One direction of a layer, gates in PyTorch's order."""

    inputs_DG: Tensor
    state_HG: Tensor
    biases_G: Tensor


class RecurrentLayer(Protocol):
    """What `final_state` and `outputs` need of a layer."""

    def __call__(self, inputs: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, Tensor]: ...


def final_state(layers: Sequence[RecurrentLayer], frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
    """The last layer's state after each video's last frame, `[B, H]`; each layer reads the outputs of the one before.

    Videos of unequal length are packed.

    Arguments:
        layers: the last one runs forward only.
        frames_BTD: float32; a video's frames are the first of its slots.
        weights_BT: 0 in slots after a video's end. None means every slot holds a frame.
    """
    packed, state_RBH = _packed(frames_BTD, weights_BT), None
    values, batch_sizes, order_B = frames_BTD, None, None
    if packed is not None:
        values, batch_sizes, order_B = packed.data, packed.batch_sizes, packed.unsorted_indices
    for layer in layers:
        values, state_RBH = layer(values, batch_sizes)
    assert state_RBH is not None
    return state_RBH[0] if order_B is None else state_RBH[0, order_B]


def outputs(layer: RecurrentLayer, frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
    """A layer's outputs, `[B, T, R * H]`, zero in slots after a video's end; arguments as in `final_state`."""
    packed = _packed(frames_BTD, weights_BT)
    if packed is None:
        return layer(frames_BTD, None)[0]
    data, _ = layer(packed.data, packed.batch_sizes)
    return pad_packed_sequence(packed._replace(data=data), batch_first=True, total_length=frames_BTD.shape[1])[0]


def _packed(frames_BTD: Tensor, weights_BT: Tensor | None) -> PackedSequence | None:
    """Videos of unequal length without their padding; None if every slot holds a frame."""
    if weights_BT is None or bool((weights_BT > 0).all()):
        return None
    lengths_B = weights_BT.sum(1).long().cpu()
    return pack_padded_sequence(frames_BTD, lengths_B, batch_first=True, enforce_sorted=False)


def run_layer(
    cell: Cell, directions: Sequence[DirectionWeights], inputs: Tensor, batch_sizes: Tensor | None, training: bool
) -> tuple[Tensor, Tensor]:
    """One layer over sequences without padding.

    Arguments:
        cell: `lstm` or `gru`.
        directions: forward, and backward if there are two.
        inputs: float32 `[B, T, D]`, or a packed sequence's data with its `batch_sizes`.
        batch_sizes: int64 on the CPU, or None for `[B, T, D]`.
        training: whether gradients will be needed.

    Returns:
        Outputs, shaped as `inputs` with R * H for D, and the final state (cell state of an LSTM) `[R, B, H]`;
        float32, or autocast's dtype.
    """
    device = inputs.device.type
    if cell == "gru" and batch_sizes is None and training and device == "cpu":
        return _own_gru(directions, inputs)
    # Autocast would run cuDNN's layers in float16 even if it was set to bfloat16, so cast here.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
    # TF32 is precise enough for gradients, but predictions would depend on the batch size.
    exact = device == "cuda" and dtype == torch.float32 and not training
    with torch.autocast(device, enabled=False), _without_tf32() if exact else nullcontext():
        return _pytorch(cell, directions, inputs.to(dtype), batch_sizes, training)


def _pytorch(
    cell: Cell, directions: Sequence[DirectionWeights], inputs: Tensor, batch_sizes: Tensor | None, training: bool
) -> tuple[Tensor, Tensor]:
    weights = _side_by_side(directions, inputs.dtype)
    batch = len(inputs) if batch_sizes is None else int(batch_sizes[0])
    start_RBH = inputs.new_zeros(len(directions), batch, len(directions[0].state_HG))
    # Biases, one layer, no dropout, training, bidirectional.
    options = (True, 1, 0.0, training, len(directions) == 2)
    if cell == "lstm":
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


def _side_by_side(directions: Sequence[DirectionWeights], dtype: torch.dtype) -> list[Tensor]:
    """Two matrices and two biases per direction, as PyTorch's layers take them; the second bias is zero.

    All lie in one piece of memory, matrices before biases, as cuDNN wants them. Otherwise PyTorch copies them at every
    call, and warns.
    """
    matrices, biases = [], []
    for weights in directions:
        matrices += [weights.inputs_DG.T, weights.state_HG.T]
        biases += [weights.biases_G, torch.zeros_like(weights.biases_G)]
    parts = matrices + biases
    flat = torch.cat([part.to(dtype).flatten() for part in parts])
    pieces = flat.split([part.numel() for part in parts])
    views = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    ordered: list[Tensor] = []
    for start in range(0, len(matrices), 2):
        ordered += views[start : start + 2] + views[len(matrices) + start :][:2]
    return ordered


def _own_gru(directions: Sequence[DirectionWeights], inputs_BTD: Tensor) -> tuple[Tensor, Tensor]:
    outputs, states = [], []
    for backward, weights in enumerate(directions):
        inputs_TBD = inputs_BTD.transpose(0, 1)
        states_TBH = gru(inputs_TBD.flip(0) if backward else inputs_TBD, *weights)
        states.append(states_TBH[-1])
        outputs.append(states_TBH.flip(0) if backward else states_TBH)
    return torch.cat(outputs, dim=2).transpose(0, 1), torch.stack(states)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Multiply in float32 on a GPU. The setting belongs to the process, so threads take turns."""
    cudnn: Any = torch.backends.cudnn.rnn
    with _PRECISION:
        before = cudnn.fp32_precision
        cudnn.fp32_precision = "ieee"
        try:
            yield
        finally:
            cudnn.fp32_precision = before
