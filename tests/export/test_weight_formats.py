"""Activations times stored codes, run by ONNX Runtime: against the dequantised weights in float64, within the bounds
that the rounding of activations has.

All products of a format are outputs of one graph, by the names of their cases.
"""

import numpy as np
import pytest
import torch

from tests.export.exporting import session
from tests.export.members import SCHEMES
from vidfit.export.graph_writer import GraphWriter, Value
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight, PackedWeight, graph_bytes, weight_format
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

INPUTS, OUTPUTS = 150, 40
MORE = 1e-5  # float32's own rounding, of sums of some ten
EVERY = [str(scheme) for scheme in SCHEMES]
# Of both granularities, bytes and narrower codes.
INT8 = ["8", "8/channel", "3", "4/channel"]
NBITS, NBITS_INPUTS = ["2/channel", "4", "4/channel", "6/channel"], [64, 150, 256, 384, 512]
FACTORS, BIASES = torch.linspace(-2, 3, OUTPUTS), torch.linspace(5, -7, OUTPUTS)


class File:
    """The graph of some cases.

    Arguments:
        widths: of the inputs, `values_WIDTH` each.
    """

    def __init__(self, widths: list[int]) -> None:
        self.graph = GraphWriter()
        self.values = {width: self.graph.input(f"values_{width}", np.float32, ["rows", width]) for width in widths}

    def add(self, name: str, value: Value) -> None:
        self.graph.output(value, name, ["rows", OUTPUTS])

    def run(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by case and product, such as `8 multiply`."""
        if not hasattr(self, "session"):
            self.session = session(self.graph)
        names = [put.name for put in self.session.get_outputs()]
        given = zip(self.values.values(), inputs, strict=True)
        found = self.session.run(names, {value.name: it.astype(np.float32) for value, it in given})
        return dict(zip(names, map(np.asarray, found), strict=True))

    def stored_bytes(self, case: str) -> int:
        """Bytes of a case's own tensors."""
        tensors = self.graph.model.graph.initializer
        return sum(len(it.raw_data) for it in tensors if it.name.startswith(f"{case}."))


def weights(scheme: QuantScheme, inputs: int = INPUTS) -> QuantizedTensor:
    torch.manual_seed(scheme.bits)
    return quantize(torch.randn(inputs, OUTPUTS) + 0.3, scheme)


def parsed(scheme: str, inputs: int = INPUTS) -> QuantizedTensor:
    return weights(QuantScheme.parse(scheme), inputs)


def extremes() -> QuantizedTensor:
    """Columns of the lowest code, and of the highest."""
    codes = torch.full((INPUTS, OUTPUTS), 127, dtype=torch.int8)
    codes[:, ::2] = -128
    return QuantizedTensor(codes, QuantScheme(bits=8), torch.tensor(1.0).double(), torch.tensor(0.0).double())


@pytest.fixture(scope="module")
def int8() -> File:
    file = File([INPUTS])
    values_MI = file.values[INPUTS]
    for name in (*EVERY, "extremes"):
        stored = Int8Weight(file.graph, name, extremes() if name == "extremes" else parsed(name))
        file.add(f"{name} folded", stored.folded())
        if name in (*INT8, "extremes"):
            file.add(f"{name} multiply", stored.multiply(values_MI))
            file.add(f"{name} multiply_frames", stored.multiply_frames(values_MI))
        if name in ("8", "4/channel"):
            file.add(f"{name} multiply with factors", stored.multiply(values_MI, FACTORS, BIASES))
            column_I = torch.linspace(-1, 2, INPUTS)
            frames = stored.multiply_frames(values_MI, column_I, FACTORS, BIASES)
            file.add(f"{name} multiply_frames with factors", frames)
            same = stored.multiply_frames(values_MI * column_I) * FACTORS + BIASES
            file.add(f"{name} multiply_frames then factors", same)
    return file


@pytest.fixture(scope="module")
def nbits() -> File:
    file = File(NBITS_INPUTS)
    for inputs, values_MI in file.values.items():
        for scheme in NBITS:
            name = f"{inputs} {scheme}"
            stored = NBitsWeight(file.graph, name, parsed(scheme, inputs))
            file.add(f"{name} multiply", stored.multiply(values_MI))
            if name in ("150 4/channel", "150 6/channel"):
                file.add(f"{name} multiply with factors", stored.multiply(values_MI, FACTORS, BIASES))
    return file


@pytest.fixture(scope="module")
def packed() -> File:
    file = File([INPUTS])
    for name in EVERY:
        stored = PackedWeight(file.graph, name, parsed(name))
        file.add(f"{name} folded", stored.folded())
        column_I = torch.linspace(-1, 2, INPUTS)
        file.add(f"{name} folded with factors", stored.folded(column_I, FACTORS))
        file.add(f"{name} multiply", stored.multiply(file.values[INPUTS], FACTORS, BIASES))
    return file


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


@pytest.mark.parametrize("scheme", EVERY)
def test_codes_of_every_scheme_are_expanded_to_its_weights(scheme: str, int8: File, packed: File):
    tensor = parsed(scheme)
    assert weight_format(tensor, nbits=False) is Int8Weight
    for file in (int8, packed):
        found = file.run(rows())[f"{scheme} folded"]
        np.testing.assert_allclose(found, tensor.dequantize().numpy(), atol=1e-6)


@pytest.mark.parametrize("scheme", EVERY)
def test_packed_weights_multiply_as_their_floats_do(scheme: str, packed: File):
    values, floats = rows()[:5], parsed(scheme).dequantize().double().numpy()
    found = packed.run(values)
    column_I1 = np.linspace(-1, 2, INPUTS)[:, None]
    np.testing.assert_allclose(found[f"{scheme} folded with factors"], column_I1 * floats * FACTORS.numpy(), atol=1e-5)
    exact = values @ floats * FACTORS.numpy() + BIASES.numpy()
    np.testing.assert_allclose(found[f"{scheme} multiply"], exact, atol=1e-3)


@pytest.mark.parametrize("scheme", INT8)
def test_int8_errs_by_the_rounding_of_activations_at_most(scheme: str, int8: File):
    tensor, values = parsed(scheme), rows().astype(np.float32)
    found = int8.run(values)
    exact = values.astype(np.float64) @ tensor.dequantize().double().numpy()
    # Half a step an input; 126 times less with remainders, which videos have and frames have not.
    step = (np.maximum(values.max(1), 0) - np.minimum(values.min(1), 0)) / 127
    scale = np.broadcast_to(tensor.scale.double().numpy().reshape(-1), OUTPUTS)
    reach = np.abs(tensor.codes.numpy().astype(np.float64)).sum(0) * scale
    bound = step[:, None] / 2 * reach
    slack = MORE * np.abs(values).sum(1, keepdims=True) + 1e-20
    assert (np.abs(found[f"{scheme} multiply"] - exact) <= bound / 126 + slack).all()
    assert (np.abs(found[f"{scheme} multiply_frames"] - exact) <= bound + slack).all()


def test_no_sum_saturates(int8: File):
    """Without VNNI, products of bytes are added in 16 bits, two at a time."""
    values = np.repeat([[1.0], [-1.0], [0.5]], INPUTS, axis=1)
    values[2, ::3] = -1
    found = int8.run(np.repeat(values, 30, axis=0))["extremes multiply"]
    exact = np.repeat(values @ extremes().codes.double().numpy(), 30, axis=0)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("scheme", NBITS)
@pytest.mark.parametrize("inputs", NBITS_INPUTS)
def test_nbits_errs_by_the_rounding_of_activations_at_most(scheme: str, inputs: int, nbits: File):
    tensor, values = parsed(scheme, inputs), rows(inputs).astype(np.float32)
    found = nbits.run(*map(rows, NBITS_INPUTS))[f"{inputs} {scheme} multiply"]
    exact = values.astype(np.float64) @ tensor.dequantize().double().numpy()
    # A byte's step is a block's largest value by 127: the row's is no smaller. A level's middle is off by half a level.
    step = np.abs(values).max(1) / 127
    scale = np.broadcast_to(tensor.scale.double().numpy().reshape(-1), OUTPUTS)
    reach = (np.abs(tensor.codes.numpy().astype(np.float64)) + 1).sum(0) * scale
    slack = MORE * np.abs(values).sum(1, keepdims=True) + 1e-20
    assert (np.abs(found - exact) <= step[:, None] / 2 * reach + slack).all()


@pytest.mark.parametrize("scheme", ["8", "4/channel"])
def test_int8_products_include_factors_and_biases(scheme: str, int8: File):
    found = int8.run(rows()[:5])
    exact = found[f"{scheme} multiply"] * FACTORS.numpy() + BIASES.numpy()
    np.testing.assert_allclose(found[f"{scheme} multiply with factors"], exact, rtol=1e-5, atol=1e-4)
    frames = found[f"{scheme} multiply_frames then factors"]
    np.testing.assert_allclose(found[f"{scheme} multiply_frames with factors"], frames, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", ["150 4/channel", "150 6/channel"])
def test_nbits_products_include_factors_and_biases(case: str, nbits: File):
    found = nbits.run(*(rows(inputs)[:5] for inputs in NBITS_INPUTS))
    exact = found[f"{case} multiply"] * FACTORS.numpy() + BIASES.numpy()
    np.testing.assert_allclose(found[f"{case} multiply with factors"], exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "case"),
    [("int8", f"{scheme} multiply") for scheme in INT8]
    + [("nbits", f"150 {scheme} multiply") for scheme in ("4/channel", "6/channel")],
)
def test_a_row_does_not_depend_on_its_batch(file: str, case: str, request: pytest.FixtureRequest):
    run, values = (
        request.getfixturevalue(file).run,
        [rows(inputs) for inputs in (NBITS_INPUTS if file == "nbits" else [INPUTS])],
    )
    alone = np.concatenate([run(*(it[place : place + 1] for it in values))[case] for place in range(len(values[0]))])
    np.testing.assert_allclose(run(*values)[case], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "case", "scheme"),
    [(file, scheme, scheme) for scheme in EVERY for file in ("int8", "packed")]
    + [("nbits", f"150 {scheme}", scheme) for scheme in ("2/channel", "4/channel", "6/channel")],
)
def test_the_file_holds_the_codes_and_no_more_than_is_told(
    file: str, case: str, scheme: str, request: pytest.FixtureRequest
):
    tensor, graph = parsed(scheme), request.getfixturevalue(file)
    # The scale and offset of a tensor are counted as float64 and stored as float32.
    assert tensor.nbytes - 8 <= graph.stored_bytes(case) <= graph_bytes(tensor) + 200


@pytest.mark.parametrize("file", ["int8", "nbits", "packed"])
def test_hardly_anything_is_stored_beside_the_weights(file: str, request: pytest.FixtureRequest):
    tensors = request.getfixturevalue(file).graph.model.graph.initializer
    unnamed = [int(np.prod(it.dims)) for it in tensors if "." not in it.name]
    # Shapes, numbers of bits, and the factors and biases that a case was given.
    assert all(size <= 8 or size in (INPUTS, OUTPUTS) for size in unnamed)


@pytest.mark.parametrize(
    ("scheme", "more", "nbits", "kind"),
    [
        ("4/channel", 0, True, Int8Weight),
        ("3/channel", 0, False, Int8Weight),
        ("8", 1, False, Int8Weight),
        ("4/channel", 1, True, NBitsWeight),
        ("4/channel", 1, False, Int8Weight),
        ("3/channel", 1, True, Int8Weight),
    ],
)
def test_weights_are_int8_but_for_nbits_of_many_inputs(scheme: str, more: int, nbits: bool, kind: type):
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
