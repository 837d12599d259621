"""Uniform 8-bit quantisation against the reference vectors and against a search for the nearest level."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidfit.compression.quantize import REFERENCE, QuantizedTensor, quantize


def test_golden_quantize_uniform(golden_dir):
    vectors = np.load(golden_dir / "quantize_uniform.npz")
    cases = sorted({key.split("/")[0] for key in vectors})
    assert cases
    for case in cases:
        quantized = quantize(torch.from_numpy(vectors[f"{case}/array"]), REFERENCE)
        levels = quantized.codes.numpy().astype(int) + 128
        np.testing.assert_array_equal(levels, vectors[f"{case}/codes"], case)
        every_level = QuantizedTensor(
            torch.arange(-128, 128, dtype=torch.int8), REFERENCE, quantized.scale, quantized.offset
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
    quantized = quantize(torch.from_numpy(array), REFERENCE)
    levels = np.linspace(float(array.min()), float(array.max()), 256)
    distance = np.abs(array[:, None].astype(np.float64) - levels)
    taken = distance[np.arange(len(array)), quantized.codes.numpy().astype(int) + 128]
    np.testing.assert_allclose(taken, distance.min(axis=1), atol=1e-12 * np.abs(array).max())


def test_half_way_goes_to_the_lower_level():
    # Levels 0, 2, 4 ... 510, all halves exact.
    quantized = quantize(torch.arange(511, dtype=torch.float32), REFERENCE)
    levels = quantized.codes.to(torch.int64) + 128
    assert levels.tolist() == [value // 2 for value in range(511)]


def test_tensors_longer_than_a_chunk_keep_their_order_and_shape():
    tensor = torch.randn(3, 50_001, generator=torch.Generator().manual_seed(0))
    quantized = quantize(tensor, REFERENCE)
    rebuilt = quantized.codes.double() * quantized.scale + quantized.offset
    assert rebuilt.shape == tensor.shape
    assert (rebuilt - tensor).abs().max() <= quantized.scale / 2 + 1e-6
    torch.testing.assert_close(quantized.dequantize(), rebuilt.float(), rtol=0, atol=0)


def test_a_transposed_view_is_quantised_as_it_reads():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(quantize(tensor.T, REFERENCE).codes, quantize(tensor, REFERENCE).codes.T)


@pytest.mark.parametrize(
    "tensor", [torch.zeros(3, dtype=torch.float64), torch.zeros(0), torch.tensor([1.0, -torch.inf])]
)
def test_what_has_no_levels_is_refused(tensor):
    with pytest.raises(ValueError, match=r"float32|empty|infinity"):
        quantize(tensor, REFERENCE)
