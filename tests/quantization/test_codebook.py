"""Codebooks of quantiles and k-means against NumPy in float64, and against each other."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidfit.quantization.codebook import quantize_codebook
from vidfit.quantization.uniform import REFERENCE, quantize

every_method = pytest.mark.parametrize("method", ["quantile", "kmeans"])

DISTRIBUTIONS = {
    "gaussian": lambda random, count: random.standard_normal(count),
    "heavy-tailed": lambda random, count: random.standard_t(4, count),
}
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def sample(distribution: str, count: int) -> np.ndarray:
    return DISTRIBUTIONS[distribution](np.random.default_rng(0), count).astype(np.float32)


def squared_error(array: np.ndarray, dequantized: torch.Tensor) -> float:
    return float(((array.astype(np.float64) - dequantized.numpy()) ** 2).sum())


def lloyd(array: np.ndarray, levels: np.ndarray) -> float:
    """Squared error of plain k-means in float64, from the given levels until nothing changes."""
    values = array.astype(np.float64)
    for _ in range(10_000):
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
        counts = np.bincount(codes, minlength=256)
        means = np.where(counts > 0, np.bincount(codes, values, 256) / np.maximum(counts, 1), levels)
        if np.array_equal(means, levels):
            return float(((values - levels[codes]) ** 2).sum())
        levels = means
    raise AssertionError("k-means did not end")


def spread_start(array: np.ndarray) -> np.ndarray:
    """The start of k-means++: each level at a value drawn by its squared distance to those before it."""
    random = np.random.default_rng(1)
    values = array.astype(np.float64)
    levels = [random.choice(values)]
    distance = (values - levels[0]) ** 2
    for _ in range(255):
        levels.append(random.choice(values, p=distance / distance.sum()))
        distance = np.minimum(distance, (values - levels[-1]) ** 2)
    return np.sort(levels)


@pytest.mark.parametrize("count", [1, 2, 255, 70_001])
@every_distribution
def test_quantile_levels_are_those_of_numpy(distribution: str, count: int):
    array = sample(distribution, count)
    found = quantize_codebook(torch.from_numpy(array), "quantile").codebook
    assert found.dtype == torch.float32
    expected = np.quantile(array.astype(np.float64), (np.arange(256) + 0.5) / 256)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1.2e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("distribution", "start", "factor"),
    [
        ("gaussian", "quantiles", 1.01),
        ("gaussian", "spread", 1.01),
        ("heavy-tailed", "quantiles", 1.01),
        # A local minimum is what is promised: this start finds a slightly better one.
        ("heavy-tailed", "spread", 1.1),
    ],
)
def test_kmeans_is_as_good_as_plain_kmeans(distribution: str, start: str, factor: float):
    array = sample(distribution, 20_000)
    starts = {"quantiles": np.quantile(array, (np.arange(256) + 0.5) / 256), "spread": spread_start(array)}
    found = squared_error(array, quantize_codebook(torch.from_numpy(array), "kmeans").dequantize())
    assert found <= factor * lloyd(array, starts[start])


@every_distribution
def test_kmeans_ends_where_every_level_is_the_mean_of_its_values(distribution: str):
    """Plain k-means, begun where ours ends, finds next to nothing to improve."""
    array = sample(distribution, 300_000)
    quantized = quantize_codebook(torch.from_numpy(array), "kmeans")
    assert squared_error(array, quantized.dequantize()) <= 1.005 * lloyd(array, quantized.codebook.double().numpy())


@pytest.mark.parametrize("count", [17_001, 300_000])
@every_distribution
def test_kmeans_has_the_least_squared_error(distribution: str, count: int):
    array = sample(distribution, count)
    tensor = torch.from_numpy(array)
    error = squared_error(array, quantize_codebook(tensor, "kmeans").dequantize())
    assert error <= squared_error(array, quantize_codebook(tensor, "quantile").dequantize())
    assert error <= squared_error(array, quantize(tensor, REFERENCE).dequantize()) * 1.0001


@every_method
@settings(max_examples=60)
@given(array=arrays(np.float32, st.integers(1, 700), elements=st.floats(-1e6, 1e6, width=32), fill=st.nothing()))
def test_every_value_takes_its_nearest_level(array: np.ndarray, method):
    quantized = quantize_codebook(torch.from_numpy(array), method)
    levels = quantized.codebook.numpy().astype(np.float64)
    assert (np.diff(levels) >= 0).all()
    distance = np.abs(array[:, None].astype(np.float64) - levels)
    np.testing.assert_array_equal(distance[np.arange(len(array)), quantized.codes.numpy()], distance.min(axis=1))


@settings(max_examples=60)
@given(st.data())
def test_at_most_256_distinct_values_are_exact_with_kmeans(data: st.DataObject):
    any_float = st.floats(allow_nan=False, allow_infinity=False, width=32)
    levels = np.array(data.draw(st.lists(any_float, min_size=1, max_size=256)), dtype=np.float32)
    array = np.random.default_rng(0).choice(levels, (7, 300))
    dequantized = quantize_codebook(torch.from_numpy(array), "kmeans").dequantize()
    np.testing.assert_array_equal(dequantized.numpy(), array)


@pytest.mark.parametrize("outlier", [1e30, -1e30])
def test_an_outlier_beyond_all_precision_leaves_a_codebook(outlier: float):
    array = np.append(sample("gaussian", 20_000), np.float32(outlier))
    quantized = quantize_codebook(torch.from_numpy(array), "kmeans")
    assert (quantized.codebook.diff() >= 0).all()
    assert outlier == pytest.approx(quantized.dequantize()[-1].item(), rel=1e-6)


@every_method
def test_a_constant_tensor_is_exact(method):
    tensor = torch.full((3, 5), 0.3)
    assert torch.equal(quantize_codebook(tensor, method).dequantize(), tensor)


@every_method
def test_tensors_longer_than_a_chunk_keep_their_order_and_shape(method):
    tensor = torch.from_numpy(sample("gaussian", 150_003).reshape(3, 50_001))
    quantized = quantize_codebook(tensor, method)
    assert quantized.codes.dtype == torch.uint8
    assert torch.equal(quantized.dequantize(), quantized.codebook[quantized.codes.int()])
    widest = quantized.codebook.diff().max()
    inside = tensor.clamp(quantized.codebook[0], quantized.codebook[-1])
    assert (quantized.dequantize() - inside).abs().max() <= widest / 2 + 1e-6


@every_method
def test_memory_is_one_copy_and_a_little(method):
    tensor = torch.from_numpy(sample("gaussian", 4_000_000))
    tracemalloc.start()  # counts NumPy's arrays, not PyTorch's: those are the codes and chunks
    try:
        quantize_codebook(tensor, method)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tensor.nbytes < peak < 1.4 * tensor.nbytes


@every_method
def test_a_transposed_view_is_quantised_as_it_reads(method):
    tensor = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(quantize_codebook(tensor.T, method).codes, quantize_codebook(tensor, method).codes.T)


@every_method
@pytest.mark.parametrize(
    "tensor", [torch.zeros(3, dtype=torch.float64), torch.zeros(0), torch.tensor([1.0, torch.nan])]
)
def test_what_has_no_levels_is_refused(tensor, method):
    with pytest.raises(ValueError, match=r"float32|empty|NaN"):
        quantize_codebook(tensor, method)
