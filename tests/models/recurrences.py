"""LSTM and GRU in float64 NumPy, one video and one direction, by PyTorch's definitions."""

import numpy as np

from vidfit.kernels.recurrent import Cell


def recurrence(
    cell: Cell, weights: np.ndarray, biases: np.ndarray, frames_TD: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs `[T, H]` and the final state (an LSTM's cell) `[H]`.

    Arguments:
        cell: `lstm` (gates i, f, g, o) or `gru` (r, z, n).
        weights: `[D + H, G]`, those of the inputs first.
        biases: `[G]`.
        frames_TD: inputs.
    """
    gates, inputs = 4 if cell == "lstm" else 3, frames_TD.shape[1]
    state = memory = np.zeros(len(weights) - inputs)
    outputs = []
    for frame_D in frames_TD:
        from_frame = np.split(frame_D @ weights[:inputs] + biases, gates)
        from_state = np.split(state @ weights[inputs:], gates)
        if cell == "lstm":
            i, f, g, o = (x + h for x, h in zip(from_frame, from_state, strict=True))
            memory = _sigmoid(f) * memory + _sigmoid(i) * np.tanh(g)
            state = _sigmoid(o) * np.tanh(memory)
        else:
            (xr, xz, xn), (hr, hz, hn) = from_frame, from_state
            update = _sigmoid(xz + hz)
            state = (1 - update) * np.tanh(xn + _sigmoid(xr + hr) * hn) + update * state
        outputs.append(state)
    return np.array(outputs), memory if cell == "lstm" else state


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
