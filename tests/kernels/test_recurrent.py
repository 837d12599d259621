"""Layers over packed sequences, against the recurrence in float64 NumPy, video by video."""

import numpy as np
import pytest
import torch

from tests.models.recurrences import recurrence
from vidfit.kernels.recurrent import Cell, final_state
from vidfit.models.recurrent import Layer

INPUTS, CELLS, LENGTHS = 5, 4, (6, 1, 3)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_last_state_is_that_of_each_videos_last_frame(cell: Cell, padded: bool):
    torch.manual_seed(0)
    bottom = Layer(cell, INPUTS, CELLS, bidirectional=True).eval()
    top = Layer(cell, 2 * CELLS, CELLS, bidirectional=False).eval()
    for parameter in (*bottom.parameters(), *top.parameters()):
        torch.nn.init.normal_(parameter)
    frames_BTD = torch.randn(len(LENGTHS), 6, INPUTS)
    lengths = LENGTHS if padded else (6, 6, 6)
    weights_BT = (torch.arange(6) < torch.tensor(lengths)[:, None]).float() if padded else None
    with torch.inference_mode():
        found_BH = final_state([bottom, top], frames_BTD, weights_BT)
    for video, length in enumerate(lengths):
        frames_TD = frames_BTD[video, :length].double().numpy()
        ahead, back = (
            (direction.weights.detach().double().numpy(), direction.biases.detach().double().numpy())
            for direction in bottom.directions
        )
        ahead_TH, _ = recurrence(cell, *ahead, frames_TD)
        back_TH, _ = recurrence(cell, *back, frames_TD[::-1])
        (direction,) = top.directions
        weights, biases = direction.weights.detach().double().numpy(), direction.biases.detach().double().numpy()
        _, state_H = recurrence(cell, weights, biases, np.concatenate([ahead_TH, back_TH[::-1]], axis=1))
        np.testing.assert_allclose(found_BH[video].numpy(), state_H, atol=1e-5)
