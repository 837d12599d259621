"""Uniform 8-bit quantisation against the reference vectors and against a search for the nearest level."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidfit.quantization import uniform as quantize_module
from vidfit.quantization.state import flatten_state
from vidfit.quantization.uniform import INT8, QuantizedTensor, QuantScheme, quantize, stored_bytes


def test_golden_quantize_uniform(golden_dir):
    vectors = np.load(golden_dir / "quantize_uniform.npz")
    cases = sorted({key.split("/")[0] for key in vectors})
    assert cases
    for case in cases:
        quantized = quantize(torch.from_numpy(vectors[f"{case}/array"]), INT8)
        levels = quantized.codes.numpy().astype(int) + 128
        np.testing.assert_array_equal(levels, vectors[f"{case}/codes"], case)
        every_level = QuantizedTensor(
            torch.arange(-128, 128, dtype=torch.int8), INT8, quantized.scale, quantized.offset
        ).dequantize()
        largest = np.abs(vectors[f"{case}/codebook"]).max()
        # One unit in the last place of a float32; absolute near 0, where the reference's own linspace rounds.
        close = {"rtol": 1.2e-7, "atol": 1e-14 * largest}
        np.testing.assert_allclose(every_level.numpy(), vectors[f"{case}/codebook"], **close, err_msg=case)
        dequantized = quantized.dequantize()
        assert dequantized.dtype == torch.float32
        np.testing.assert_allclose(dequantized.numpy(), vectors[f"{case}/dequantised"], **close, err_msg=case)


@settings(max_examples=100)
@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_value_takes_its_nearest_level(array):
    quantized = quantize(torch.from_numpy(array), INT8)
    levels = np.linspace(float(array.min()), float(array.max()), 256)
    distance = np.abs(array[:, None].astype(np.float64) - levels)
    taken = distance[np.arange(len(array)), quantized.codes.numpy().astype(int) + 128]
    np.testing.assert_allclose(taken, distance.min(axis=1), atol=1e-12 * np.abs(array).max())


def test_half_way_goes_to_the_lower_level():
    # Levels 0, 2, 4 ... 510, all halves exact.
    quantized = quantize(torch.arange(511, dtype=torch.float32), INT8)
    levels = quantized.codes.to(torch.int64) + 128
    assert levels.tolist() == [value // 2 for value in range(511)]


def test_tensors_longer_than_a_chunk_keep_their_order_and_shape():
    tensor = torch.randn(3, 50_001, generator=torch.Generator().manual_seed(0))
    quantized = quantize(tensor, INT8)
    rebuilt = quantized.codes.double() * quantized.scale + quantized.offset
    assert rebuilt.shape == tensor.shape
    assert (rebuilt - tensor).abs().max() <= quantized.scale / 2 + 1e-6
    torch.testing.assert_close(quantized.dequantize(), rebuilt.float(), rtol=0, atol=0)


def test_a_transposed_view_is_quantized_as_it_reads():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(quantize(tensor.T, INT8).codes, quantize(tensor, INT8).codes.T)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(3, dtype=torch.float64), torch.zeros(0), torch.tensor([1.0, -torch.inf])]
)
def test_tensors_without_levels_are_refused(tensor):
    with pytest.raises(ValueError, match=r"float32|empty|infinity"):
        quantize(tensor, INT8)


SCHEMES = [QuantScheme.parse(f"{bits}{granularity}") for bits in range(2, 9) for granularity in ("", "/channel")]


def levels_of(quantized: QuantizedTensor) -> np.ndarray:
    """Every level of every weight, float64 `[I, O, levels]`."""
    scale, offset = (
        np.broadcast_to(numbers.double().numpy(), quantized.codes.shape)[..., None]
        for numbers in (quantized.scale, quantized.offset)
    )
    return np.arange(quantized.scheme.lowest, -quantized.scheme.lowest) * scale + offset


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_weight_takes_the_nearest_level_of_its_scale(scheme: QuantScheme, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantize_module, "_CHUNK", 300)
    # A column is constant and one is small.
    weights = np.random.default_rng(0).normal(0.01, 0.1, (150, 5)).astype(np.float32)
    weights[:, 2], weights[:, 3] = 0.3, weights[:, 3] / 50
    quantized = quantize(torch.from_numpy(weights), scheme)
    assert quantized.codes.shape == weights.shape
    levels, values = levels_of(quantized), quantized.dequantize().numpy()
    distance = np.abs(levels - weights[..., None])
    np.testing.assert_allclose(np.abs(values - weights), distance.min(axis=2), atol=1e-7)
    inside = (weights >= levels[..., 0]) & (weights <= levels[..., -1])
    step = levels[..., 1] - levels[..., 0]
    assert (np.abs(values - weights) <= step / 2 + 1e-7)[inside].all()
    # Half precision moves the ends of a range by a thousandth.
    assert (np.abs(values - weights) <= step / 2 + 2e-3 * np.abs(weights).max()).all()


@given(st.sampled_from(SCHEMES), st.integers(1, 150), st.integers(1, 9))
def test_bytes_are_those_that_are_written(scheme: QuantScheme, rows: int, columns: int):
    quantized = quantize(torch.randn(rows, columns), scheme)
    written = sum(tensor.nbytes for tensor in flatten_state({"w": quantized}).values())
    assert quantized.nbytes == stored_bytes(quantized.codes.shape, scheme) == written


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_scheme_is_a_short_text(scheme: QuantScheme):
    assert QuantScheme.parse(str(scheme)) == scheme


def test_texts_of_schemes():
    assert str(QuantScheme(bits=4)) == "4"
    assert str(QuantScheme(bits=3, granularity="channel")) == "3/channel"


@pytest.mark.parametrize("text", ["", "1", "9", "4/16", "4/64", "4/tensor", "4/row", "4/channel/clip", "04", "4/"])
def test_other_texts_are_no_scheme(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's and our own
        QuantScheme.parse(text)


@pytest.mark.parametrize(("factor", "message"), [(1e6, "too large"), (1e-8, "too close to constant")])
def test_values_beyond_half_precision_are_refused(factor: float, message: str):
    weights = torch.randn(40, 3) * factor
    with pytest.raises(ValueError, match=message):
        quantize(weights, QuantScheme(bits=4, granularity="channel"))
    found = quantize(weights, QuantScheme(bits=8)).dequantize()
    assert (found - weights).abs().max() < 0.05 * factor
