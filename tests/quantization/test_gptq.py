"""GPTQ against a plain Optimal Brain Compression in float64, and against rounding to nearest."""

import numpy as np
import pytest
import torch

from vidfit.quantization import gptq
from vidfit.quantization.gptq import LayerInputs
from vidfit.quantization.uniform import QuantScheme, quantize

INPUTS, OUTPUTS = 48, 10


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated inputs `[N, I]` and weights `[I, O]`."""
    generator = torch.Generator().manual_seed(seed)
    factors, mixing = torch.randn(300, 12, generator=generator), torch.randn(12, INPUTS, generator=generator)
    inputs = factors @ mixing + 0.3 * torch.randn(300, INPUTS, generator=generator)
    return inputs.half(), torch.randn(INPUTS, OUTPUTS, generator=generator)


def optimal_brain_compression(weights: np.ndarray, inputs: np.ndarray, low: np.ndarray, scale: np.ndarray, levels: int):
    """Levels `[I, O]`, rows in order: eq. 3 for the weights, eq. 4 for the inverse; an inverse is updated a row."""
    weights, second = weights.astype(np.float64), inputs.astype(np.float64).T @ inputs.astype(np.float64)
    share = max(0.01, len(second) / (2 * len(inputs)))
    inverse = np.linalg.inv(second + share * second.diagonal().mean() * np.eye(len(second)))
    found = np.empty(weights.shape, int)
    for row in range(len(weights)):
        found[row] = np.clip(np.ceil((weights[row] - low[row]) / scale[row] - 0.5), 0, levels - 1)
        error = weights[row] - (low[row] + found[row] * scale[row])
        weights = weights - inverse[:, row, None] * error / inverse[row, row]
        inverse = inverse - inverse[:, row, None] * inverse[None, row] / inverse[row, row]
    return found


def output_error(inputs: torch.Tensor, weights: torch.Tensor, found: torch.Tensor) -> float:
    return (inputs.double() @ (weights - found).double()).norm().item()


@pytest.mark.parametrize("lazy", [1, 7, 64])
@pytest.mark.parametrize("text", ["2", "3/channel", "4/channel", "8"])
def test_it_is_optimal_brain_compression(text: str, lazy: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gptq, "_LAZY", lazy)
    inputs, weights = case()
    scheme = QuantScheme.parse(text)
    quantized = quantize(weights, scheme, LayerInputs(inputs, ((1, INPUTS),)))
    every_row = np.zeros((INPUTS, OUTPUTS))
    scale, offset = (every_row + numbers.double().numpy() for numbers in (quantized.scale, quantized.offset))
    low = offset + scheme.lowest * scale
    expected = optimal_brain_compression(weights.numpy(), inputs.numpy(), low, scale, 2**scheme.bits)
    np.testing.assert_array_equal(quantized.codes.numpy().astype(int) - scheme.lowest, expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_outputs_are_nearer_than_with_the_nearest_levels(bits: int):
    inputs, weights = case(bits)
    scheme = QuantScheme(bits=bits, granularity="channel")
    nearest, by_gptq = (quantize(weights, scheme, given) for given in (None, LayerInputs(inputs, ((1, INPUTS),))))
    assert output_error(inputs, weights, by_gptq.dequantize()) < 0.8 * output_error(
        inputs, weights, nearest.dequantize()
    )


def test_blocks_of_one_input_are_rounding_to_nearest():
    inputs, weights = case()
    scheme = QuantScheme(bits=3, granularity="channel")
    found = quantize(weights, scheme, LayerInputs(inputs, ((INPUTS, 1),)))
    assert torch.equal(found.codes, quantize(weights, scheme).codes)


def test_errors_stay_within_their_block(monkeypatch: pytest.MonkeyPatch):
    """Three blocks of twelve inputs each; a second part follows."""
    monkeypatch.setattr(gptq, "_ELEMENTS", 1)
    inputs, weights = case()
    scheme = QuantScheme(bits=3)
    whole = quantize(weights, scheme, LayerInputs(inputs, ((3, 12), (1, 12))))
    blocks = torch.arange(48).split(12)
    low, scale = whole.offset + scheme.lowest * whole.scale, whole.scale
    for block in blocks:
        rows = np.broadcast_to(low.numpy(), (12, OUTPUTS)), np.broadcast_to(scale.numpy(), (12, OUTPUTS))
        expected = optimal_brain_compression(weights[block].numpy(), inputs[:, block].numpy(), *rows, 8)
        np.testing.assert_array_equal(whole.codes[block].numpy().astype(int) - scheme.lowest, expected)


def test_inputs_that_are_always_zero_round_to_nearest():
    inputs, weights = case()
    before = weights.clone()
    found = quantize(weights, QuantScheme(bits=4), LayerInputs(torch.zeros_like(inputs), ((1, INPUTS),)))
    assert torch.equal(weights, before)
    assert torch.equal(found.codes, quantize(weights, QuantScheme(bits=4)).codes)
