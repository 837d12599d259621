"""Activations times stored codes, run by ONNX Runtime: against the dequantised weights in float64, within the bounds
that the rounding of activations has."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.export.exporting import exported
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight, PackedWeight, graph_bytes, weight_format
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

INPUTS, OUTPUTS = 150, 40
MORE = 1e-5  # float32's own rounding, of sums of some ten


class Product(nn.Module):
    """`values @ W` and, of bytes, the weights themselves, and the product with frames."""

    def __init__(self, stored: Int8Weight | NBitsWeight, terms: int, *more: torch.Tensor) -> None:
        super().__init__()
        self.stored, self.terms, self.more = stored, terms, more

    def forward(self, values_MI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        product_MO = self.stored.multiply(values_MI, self.terms, *self.more)
        if isinstance(self.stored, NBitsWeight):
            return (product_MO,)
        return product_MO, self.stored.expand(), self.stored.multiply_frames(values_MI, *self.more)


def in_onnx(
    stored: Int8Weight | NBitsWeight, terms: int, path: Path, *more: torch.Tensor
) -> Callable[[np.ndarray], list[np.ndarray]]:
    rows = {0: torch.export.Dim("rows")}
    onnx.save(exported(Product(stored, terms, *more), (torch.zeros(3, stored.shape[0]),), ["values"], (rows,)), path)
    session = onnxruntime.InferenceSession(path)
    return lambda values: [np.asarray(it) for it in session.run(None, {"values": values.astype(np.float32)})]


def weights(scheme: QuantScheme, inputs: int = INPUTS) -> QuantizedTensor:
    torch.manual_seed(scheme.bits)
    return quantize(torch.randn(inputs, OUTPUTS) + 0.3, scheme)


def rows(inputs: int = INPUTS) -> np.ndarray:
    """Of every sort that a layer may see."""
    random = np.random.default_rng(0)
    normal = random.standard_normal((9, inputs))
    normal[1] = np.abs(normal[1])
    normal[2] = -np.abs(normal[2])
    normal[3] = 0
    normal[4] = 0.7
    normal[5] *= 1e4
    normal[6] *= 1e-6
    normal[7, 11] = 500
    normal[8] = np.where(np.arange(inputs) % 2, 1, -1)
    return normal


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("scheme", ["8", "8/channel", "2/channel", "3", "4/channel", "7"])
def test_int8_errs_by_the_rounding_of_activations_at_most(scheme: str, terms: int, tmp_path: Path):
    tensor = weights(QuantScheme.parse(scheme))
    assert weight_format(tensor, nbits=False) is Int8Weight
    stored = Int8Weight(tensor)
    values = rows().astype(np.float32)
    found, expanded, of_frames = in_onnx(stored, terms, tmp_path / "product.onnx")(values)
    exact = values.astype(np.float64) @ tensor.dequantize().double().numpy()
    # Half a step an input; 126 times less with remainders.
    step = (np.maximum(values.max(1), 0) - np.minimum(values.min(1), 0)) / 127
    scale = np.broadcast_to(tensor.scale.double().numpy().reshape(-1), OUTPUTS)
    reach = np.abs(tensor.codes.numpy().astype(np.float64)).sum(0) * scale
    bound = step[:, None] / 2 * reach / (1 if terms == 1 else 126)
    slack = MORE * np.abs(values).sum(1, keepdims=True) + 1e-20
    assert (np.abs(found - exact) <= bound + slack).all()
    assert (np.abs(of_frames - exact) <= step[:, None] / 2 * reach + slack).all()
    np.testing.assert_allclose(expanded, tensor.dequantize().numpy(), atol=1e-6)


def test_no_sum_saturates(tmp_path: Path):
    """Without VNNI, products of bytes are added in 16 bits, two at a time."""
    codes = torch.full((INPUTS, OUTPUTS), 127, dtype=torch.int8)
    codes[:, ::2] = -128
    tensor = QuantizedTensor(codes, QuantScheme(bits=8), torch.tensor(1.0).double(), torch.tensor(0.0).double())
    values = np.repeat([[1.0], [-1.0], [0.5]], INPUTS, axis=1)
    values[2, ::3] = -1
    found, *_ = in_onnx(Int8Weight(tensor), 2, tmp_path / "product.onnx")(np.repeat(values, 30, axis=0))
    exact = np.repeat(values @ codes.double().numpy(), 30, axis=0)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("scheme", ["2/channel", "4", "4/channel", "6/channel"])
@pytest.mark.parametrize("inputs", [64, 150, 256, 384, 512])
def test_nbits_errs_by_the_rounding_of_activations_at_most(scheme: str, inputs: int, tmp_path: Path):
    tensor = weights(QuantScheme.parse(scheme), inputs)
    values = rows(inputs).astype(np.float32)
    (found,) = in_onnx(NBitsWeight(tensor), 1, tmp_path / "product.onnx")(values)
    exact = values.astype(np.float64) @ tensor.dequantize().double().numpy()
    # A byte's step is a block's largest value by 127: the row's is no smaller. A level's middle is off by half a level.
    step = np.abs(values).max(1) / 127
    scale = np.broadcast_to(tensor.scale.double().numpy().reshape(-1), OUTPUTS)
    reach = (np.abs(tensor.codes.numpy().astype(np.float64)) + 1).sum(0) * scale
    slack = MORE * np.abs(values).sum(1, keepdims=True) + 1e-20
    assert (np.abs(found - exact) <= step[:, None] / 2 * reach + slack).all()


FORMATS = [
    (Int8Weight, "8"),
    (Int8Weight, "8/channel"),
    (Int8Weight, "4/channel"),
    (NBitsWeight, "4/channel"),
    (NBitsWeight, "6/channel"),
]


@pytest.mark.parametrize(("kind", "scheme"), FORMATS)
def test_factors_and_biases_of_outputs_are_a_part_of_the_product(
    kind: type[Int8Weight] | type[NBitsWeight], scheme: str, tmp_path: Path
):
    stored = kind(weights(QuantScheme.parse(scheme)))
    factors, biases = torch.linspace(-2, 3, OUTPUTS), torch.linspace(5, -7, OUTPUTS)
    path, values = tmp_path / "product.onnx", rows()[:5]
    plain, folded = (in_onnx(stored, 1, path, *more)(values) for more in ((), (factors, biases)))
    exact = plain[0] * factors.numpy() + biases.numpy()
    np.testing.assert_allclose(folded[0], exact, rtol=1e-5, atol=1e-4)
    # Of bytes, as frames.
    np.testing.assert_allclose(folded[-1], exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize(("kind", "scheme"), FORMATS)
def test_a_row_does_not_depend_on_its_batch(
    kind: type[Int8Weight] | type[NBitsWeight], scheme: str, terms: int, tmp_path: Path
):
    run = in_onnx(kind(weights(QuantScheme.parse(scheme))), terms, tmp_path / "product.onnx")
    values = rows()
    alone = np.concatenate([run(values[place : place + 1])[0] for place in range(len(values))])
    together = run(values)[0]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        *FORMATS,
        (Int8Weight, "2/channel"),
        (Int8Weight, "6/channel"),
        (NBitsWeight, "2/channel"),
        (Int8Weight, "3/channel"),
    ],
)
def test_the_file_holds_the_codes_and_no_more_than_is_told(
    kind: type[Int8Weight] | type[NBitsWeight], scheme: str, tmp_path: Path
):
    tensor, path = weights(QuantScheme.parse(scheme)), tmp_path / "product.onnx"
    in_onnx(kind(tensor), 1, path)
    stored = sum(len(it.raw_data) for it in onnx.load(path).graph.initializer)
    assert tensor.nbytes <= stored <= graph_bytes(tensor) + 200


@pytest.mark.parametrize(
    ("scheme", "more", "nbits", "kind"),
    [
        ("4/channel", 0, True, Int8Weight),
        ("3/channel", 0, False, Int8Weight),
        ("8", 1, False, Int8Weight),
        ("4/channel", 1, True, NBitsWeight),
        ("4/channel", 1, False, PackedWeight),
        ("3/channel", 1, True, PackedWeight),
    ],
)
def test_weights_are_int8_but_for_narrow_codes_of_many_inputs(scheme: str, more: int, nbits: bool, kind: type):
    assert weight_format(weights(QuantScheme.parse(scheme), FEW_INPUTS + more), nbits=nbits) is kind


def test_sums_that_could_leave_32_bits_are_not_int8():
    """One outlier among many inputs: all other codes are the lowest."""
    tensor = torch.zeros(140_000, 2)
    tensor[0] = 1
    eight, four = (quantize(tensor, QuantScheme(bits=bits)) for bits in (8, 4))
    assert weight_format(eight, nbits=True) is PackedWeight
    assert not Int8Weight.fits(four)
    assert weight_format(four, nbits=False) is PackedWeight
    assert weight_format(quantize(tensor[:1000], QuantScheme(bits=8)), nbits=True) is Int8Weight
