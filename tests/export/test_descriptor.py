"""Descriptors rounded part by part, run by ONNX Runtime: against normalised floats in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.export.exporting import session
from tests.models.formulas import normalise
from vidfit.export.descriptor import Descriptor, Part
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.layers import intra_norm, inverse_root
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

# Clusters and features; of the last part all clusters have one factor, as those of a NetFV's second order.
SHAPES, OUTPUTS = ((8, 1100), (5, 40), (3, 10)), 7
INPUTS = sum(clusters * features for clusters, features in SHAPES)
FORMATS: dict[str, tuple[type[Int8Weight] | type[NBitsWeight], int]] = {
    "int8": (Int8Weight, 8),
    "nbits": (NBitsWeight, 4),
}
Run = Callable[[list[np.ndarray]], dict[str, np.ndarray]]
every_layer = pytest.mark.parametrize("layer", FORMATS)


def weights(bits: int) -> QuantizedTensor:
    torch.manual_seed(0)
    return quantize(torch.randn(INPUTS, OUTPUTS) + 0.3, QuantScheme(bits=bits, granularity="channel"))


@pytest.fixture(scope="module")
def graph() -> GraphWriter:
    """Both layers."""
    graph, parts = GraphWriter(), []
    for name, shape in zip(("one", "other", "last"), SHAPES, strict=True):
        values_BKD = graph.input(name, np.float32, ["videos", *shape])
        whole_B11 = inverse_root((values_BKD * values_BKD).sum(2).sum(1))
        parts.append(Part(values_BKD, whole_B11 if name == "last" else intra_norm(values_BKD), *shape))
    descriptor = Descriptor(graph, parts)
    for name, (stored_as, bits) in FORMATS.items():
        weight = stored_as(graph, name, weights(bits))
        rows: Any = descriptor.multiplied_by(weight)
        graph.output(weight.multiply(rows), f"{name} product", ["videos", OUTPUTS])
    return graph


@pytest.fixture(scope="module")
def run(graph: GraphWriter) -> Run:
    opened = session(graph)

    def run(parts: list[np.ndarray]) -> dict[str, np.ndarray]:
        inputs = {name: part.astype(np.float32) for name, part in zip(("one", "other", "last"), parts, strict=True)}
        found = opened.run([f"{name} product" for name in FORMATS], inputs)
        return dict(zip(FORMATS, map(np.asarray, found), strict=True))

    return run


def parts() -> list[np.ndarray]:
    """Of every sort: clusters of all sizes, of one sign, with one feature that stands out, without anything."""
    random = np.random.default_rng(0)
    one, other, last = (random.standard_normal((7, *shape)) for shape in SHAPES)
    one *= 10.0 ** random.integers(-9, 5, one.shape[:2])[:, :, None]
    one[1] = np.abs(one[1])
    other[2, 3, 5] = 1e4
    one[3, 2:5] = other[3, 1] = 0
    one[4] = other[4] = 0
    one[5] = other[5] = last[5] = 0
    return [one, other, last]


def descriptors(one: np.ndarray, other: np.ndarray, last: np.ndarray) -> np.ndarray:
    """float64 `[B, P]`."""
    by_cluster = [normalise(one, axis=2), normalise(other, axis=2), last]
    return np.concatenate([normalise(values.reshape(len(values), -1), axis=1) for values in by_cluster], axis=1)


@every_layer
def test_products_are_those_of_normalised_descriptors(layer: str, run: Run):
    tensor = weights(FORMATS[layer][1])
    assert INPUTS > FEW_INPUTS
    values_BP, weights_PO = descriptors(*parts()), tensor.dequantize().double().numpy()
    low_B1, high_B1 = (np.minimum(values_BP.min(1), 0), np.maximum(values_BP.max(1), 0))
    found = run(parts())[layer]
    assert np.isfinite(found).all()
    if layer == "int8":
        step_B1 = np.maximum((high_B1 - low_B1) / 127, 1e-30)[:, None]
        zero_B1 = np.round(-low_B1[:, None] / step_B1)
        rounded_BP = (np.round(values_BP / step_B1 + zero_B1) - zero_B1) * step_B1
        offset_O = tensor.offset.double().numpy().ravel()
        exact = rounded_BP @ (weights_PO - offset_O) + values_BP.sum(1, keepdims=True) * offset_O
        # Float32 may see one or two values on the other side of a half.
        bound = 2 * step_B1 * np.abs(weights_PO - offset_O).max()
    else:
        exact = values_BP @ weights_PO
        # 254 levels over at most twice the greatest of a block; errors of that many values hardly add up.
        step_B1 = 2 * np.abs(values_BP).max(1, keepdims=True) / 254
        bound = 6 * step_B1 / 12**0.5 * np.linalg.norm(weights_PO, axis=0)
    assert (np.abs(found - exact) <= bound + 1e-5).all()


def test_each_part_is_rounded_cluster_by_cluster(graph: GraphWriter):
    """A cluster has one step for as many values as its part has features."""
    rounded = [node for node in graph.model.graph.node if node.op_type == "QuantizeLinear"]
    blocks = [it.i for node in rounded for it in node.attribute if it.name == "block_size"]
    assert blocks == [features for _, features in SHAPES]


@every_layer
def test_a_video_is_rounded_by_itself(layer: str, run: Run):
    together = run(parts())[layer]
    for number in range(len(together)):
        alone = run([part[number : number + 1] for part in parts()])[layer]
        np.testing.assert_allclose(alone[0], together[number], rtol=1e-5, atol=1e-5)
