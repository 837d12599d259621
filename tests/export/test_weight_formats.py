"""Activations times stored codes, run by ONNX Runtime: against the dequantised weights in float64, within the bounds
that the rounding of activations has.

An export takes seconds, so all products of a format are outputs of one graph, by the names of their cases.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.export.exporting import exported
from tests.export.members import SCHEMES
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight, PackedWeight, graph_bytes, weight_format
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

INPUTS, OUTPUTS = 150, 40
MORE = 1e-5  # float32's own rounding, of sums of some ten
EVERY = [str(scheme) for scheme in SCHEMES]
# Of both granularities, bytes and narrower codes.
INT8 = ["8", "8/channel", "3", "4/channel"]
NBITS, NBITS_INPUTS = ["2/channel", "4", "4/channel", "6/channel"], [64, 150, 256, 384, 512]
FACTORS, BIASES = torch.linspace(-2, 3, OUTPUTS), torch.linspace(5, -7, OUTPUTS)


class Cases(nn.Module):
    """Weights by name, and what is computed of each."""

    def __init__(self, stored: dict[str, nn.Module]) -> None:
        super().__init__()
        self.names = list(stored)
        self.stored = nn.ModuleList(stored.values())

    def compute(self, name: str, stored: nn.Module, inputs: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def named(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs by case and product, such as `8 multiply 1`."""
        by_width, computed = {it.shape[1]: it for it in inputs}, {}
        for name, stored in zip(self.names, self.stored, strict=True):
            of_case = self.compute(name, stored, by_width)
            computed |= {f"{name} {output}": tensor for output, tensor in of_case.items()}
        return computed

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.named(*inputs).values())


class Int8Cases(Cases):
    def compute(self, name: str, stored: nn.Module, inputs: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert isinstance(stored, Int8Weight)
        values_MI, computed = inputs[INPUTS], {"expand": stored.expand()}
        if name in INT8:
            computed["multiply 1"] = stored.multiply(values_MI, 1)
            computed["multiply_frames"] = stored.multiply_frames(values_MI)
        if name in (*INT8, "extremes"):
            computed["multiply 2"] = stored.multiply(values_MI, 2)
        if name in ("8", "4/channel"):
            computed["multiply folded"] = stored.multiply(values_MI, 1, FACTORS, BIASES)
            computed["multiply_frames folded"] = stored.multiply_frames(values_MI, FACTORS, BIASES)
        return computed


class NBitsCases(Cases):
    def compute(self, name: str, stored: nn.Module, inputs: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert isinstance(stored, NBitsWeight)
        values_MI = inputs[stored.shape[0]]
        computed = {"multiply 1": stored.multiply(values_MI, 1)}
        if name in ("150 4/channel", "150 6/channel"):
            computed["multiply folded"] = stored.multiply(values_MI, 1, FACTORS, BIASES)
        return computed


class PackedCases(Cases):
    def compute(self, name: str, stored: nn.Module, inputs: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert isinstance(stored, PackedWeight)
        return {"expand": stored.expand()}


class File:
    """The graph of some cases."""

    def __init__(self, cases: Cases, path: Path, widths: list[int]) -> None:
        self.names = [f"values_{width}" for width in widths]
        dynamic = ({0: torch.export.Dim("rows")},) * len(widths)
        # Star arguments are one argument of the program: a tuple.
        example = tuple(torch.zeros(3, width) for width in widths)
        onnx.save(exported(cases, example, self.names, (dynamic,)), path)
        self.graph = onnx.load(path).graph
        self.session = onnxruntime.InferenceSession(path)
        self.outputs, self.places = list(cases.named(*example)), {name: place for place, name in enumerate(cases.names)}

    def run(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        by_name = dict(zip(self.names, (it.astype(np.float32) for it in inputs), strict=True))
        used = {put.name for put in self.session.get_inputs()}
        found = self.session.run(None, {name: it for name, it in by_name.items() if name in used})
        return dict(zip(self.outputs, map(np.asarray, found), strict=True))

    def stored_bytes(self, case: str) -> int:
        """Bytes of a case's own tensors."""
        prefix = f"stored.{self.places[case]}."
        return sum(len(it.raw_data) for it in self.graph.initializer if it.name.startswith(prefix))

    def all_bytes(self) -> int:
        return sum(len(it.raw_data) for it in self.graph.initializer)


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
def int8(tmp_path_factory: pytest.TempPathFactory) -> File:
    stored: dict[str, nn.Module] = {scheme: Int8Weight(parsed(scheme)) for scheme in EVERY}
    stored["extremes"] = Int8Weight(extremes())
    return File(Int8Cases(stored), tmp_path_factory.mktemp("int8") / "products.onnx", [INPUTS])


@pytest.fixture(scope="module")
def nbits(tmp_path_factory: pytest.TempPathFactory) -> File:
    cases = {f"{inputs} {scheme}": NBitsWeight(parsed(scheme, inputs)) for scheme in NBITS for inputs in NBITS_INPUTS}
    return File(NBitsCases({**cases}), tmp_path_factory.mktemp("nbits") / "products.onnx", NBITS_INPUTS)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> File:
    stored: dict[str, nn.Module] = {scheme: PackedWeight(parsed(scheme)) for scheme in EVERY}
    return File(PackedCases(stored), tmp_path_factory.mktemp("packed") / "products.onnx", [INPUTS])


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
        found = file.run(rows())[f"{scheme} expand"]
        np.testing.assert_allclose(found, tensor.dequantize().numpy(), atol=1e-6)


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("scheme", INT8)
def test_int8_errs_by_the_rounding_of_activations_at_most(scheme: str, terms: int, int8: File):
    tensor, values = parsed(scheme), rows().astype(np.float32)
    found = int8.run(values)
    exact = values.astype(np.float64) @ tensor.dequantize().double().numpy()
    # Half a step an input; 126 times less with remainders.
    step = (np.maximum(values.max(1), 0) - np.minimum(values.min(1), 0)) / 127
    scale = np.broadcast_to(tensor.scale.double().numpy().reshape(-1), OUTPUTS)
    reach = np.abs(tensor.codes.numpy().astype(np.float64)).sum(0) * scale
    bound = step[:, None] / 2 * reach / (1 if terms == 1 else 126)
    slack = MORE * np.abs(values).sum(1, keepdims=True) + 1e-20
    assert (np.abs(found[f"{scheme} multiply {terms}"] - exact) <= bound + slack).all()
    assert (np.abs(found[f"{scheme} multiply_frames"] - exact) <= step[:, None] / 2 * reach + slack).all()


def test_no_sum_saturates(int8: File):
    """Without VNNI, products of bytes are added in 16 bits, two at a time."""
    values = np.repeat([[1.0], [-1.0], [0.5]], INPUTS, axis=1)
    values[2, ::3] = -1
    found = int8.run(np.repeat(values, 30, axis=0))["extremes multiply 2"]
    exact = np.repeat(values @ extremes().codes.double().numpy(), 30, axis=0)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("scheme", NBITS)
@pytest.mark.parametrize("inputs", NBITS_INPUTS)
def test_nbits_errs_by_the_rounding_of_activations_at_most(scheme: str, inputs: int, nbits: File):
    tensor, values = parsed(scheme, inputs), rows(inputs).astype(np.float32)
    found = nbits.run(*map(rows, NBITS_INPUTS))[f"{inputs} {scheme} multiply 1"]
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
    exact = found[f"{scheme} multiply 1"] * FACTORS.numpy() + BIASES.numpy()
    for product in ("multiply folded", "multiply_frames folded"):
        np.testing.assert_allclose(found[f"{scheme} {product}"], exact, rtol=1e-5, atol=1e-4, err_msg=product)


@pytest.mark.parametrize("case", ["150 4/channel", "150 6/channel"])
def test_nbits_products_include_factors_and_biases(case: str, nbits: File):
    found = nbits.run(*(rows(inputs)[:5] for inputs in NBITS_INPUTS))
    exact = found[f"{case} multiply 1"] * FACTORS.numpy() + BIASES.numpy()
    np.testing.assert_allclose(found[f"{case} multiply folded"], exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "case"),
    [("int8", f"{scheme} multiply {terms}") for scheme in INT8 for terms in (1, 2)]
    + [("nbits", f"150 {scheme} multiply 1") for scheme in ("4/channel", "6/channel")],
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
    graph = request.getfixturevalue(file)
    assert graph.all_bytes() <= sum(map(graph.stored_bytes, graph.places)) + 200 * len(graph.places)


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
