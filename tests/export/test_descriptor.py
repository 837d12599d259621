"""Descriptors rounded part by part, run by ONNX Runtime: against normalised floats in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.export.exporting import exported
from tests.models.formulas import normalise
from vidfit.export.descriptor import StoredDescriptor
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight, WeightFormat
from vidfit.export.weights import StoredWeight
from vidfit.models.layers import intra_norm, inverse_norm
from vidfit.quantization.uniform import QuantizedTensor, QuantScheme, quantize

# Clusters and features; of the last part all clusters have one factor, as those of a NetFV's second order.
SHAPES, OUTPUTS = ((8, 1100), (5, 40), (3, 10)), 7
INPUTS = sum(clusters * features for clusters, features in SHAPES)
Layer = tuple[WeightFormat, QuantizedTensor]
Run = Callable[[list[np.ndarray]], tuple[np.ndarray, ...]]
LAYERS = ["int8", "nbits"]
every_layer = pytest.mark.parametrize("place", range(len(LAYERS)), ids=LAYERS)


class HiddenLayers(nn.Module):
    def __init__(self, stored: list[WeightFormat]) -> None:
        super().__init__()
        self.stored = nn.ModuleList(stored)
        self.dropout = nn.Dropout(0.5).eval()

    def forward(
        self, one_BKD: torch.Tensor, other_BKD: torch.Tensor, last_BKD: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        parts = [StoredDescriptor.flatten_scaled(values, intra_norm(values)) for values in (one_BKD, other_BKD)]
        factor_B11 = inverse_norm(last_BKD.flatten(1), dim=1)[:, :, None]
        parts.append(StoredDescriptor.flatten_scaled(last_BKD, factor_B11))
        descriptor: Any = self.dropout(torch.cat(parts, dim=1))  # type: ignore[arg-type]
        return tuple(descriptor @ StoredWeight(stored) for stored in self.stored)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    stored: list[Layer] = []
    for kind, bits in ((Int8Weight, 8), (NBitsWeight, 4)):
        torch.manual_seed(0)
        tensor = quantize(torch.randn(INPUTS, OUTPUTS) + 0.3, QuantScheme(bits=bits, granularity="channel"))
        stored.append((kind(tensor), tensor))
    return stored


@pytest.fixture(scope="module")
def path(layers: list[Layer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layers in one graph, as an export takes seconds."""
    path = tmp_path_factory.mktemp("descriptor") / "hidden.onnx"
    example = tuple(torch.zeros(2, *shape) for shape in SHAPES)
    videos = ({0: torch.export.Dim("videos")},) * 3
    module = HiddenLayers([stored for stored, _ in layers])
    onnx.save(exported(module, example, ["one", "other", "last"], videos), path)
    return path


@pytest.fixture(scope="module")
def run(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path)

    def run(parts: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        inputs = {name: part.astype(np.float32) for name, part in zip(("one", "other", "last"), parts, strict=True)}
        return tuple(map(np.asarray, session.run(None, inputs)))

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
def test_products_are_those_of_normalised_descriptors(place: int, layers: list[Layer], run: Run):
    stored, tensor = layers[place]
    assert INPUTS > FEW_INPUTS
    values_BP, weights_PO = descriptors(*parts()), tensor.dequantize().double().numpy()
    low_B1, high_B1 = (np.minimum(values_BP.min(1), 0), np.maximum(values_BP.max(1), 0))
    found = run(parts())[place]
    assert np.isfinite(found).all()
    if isinstance(stored, Int8Weight):
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


def test_each_part_is_rounded_cluster_by_cluster(path: Path):
    """A cluster has one step for as many values as its part has features."""
    rounded = [node for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    blocks = [it.i for node in rounded for it in node.attribute if it.name == "block_size"]
    assert blocks == [features for _, features in SHAPES]


@every_layer
def test_a_video_is_rounded_by_itself(place: int, run: Run):
    together = run(parts())[place]
    for number in range(len(together)):
        alone = run([part[number : number + 1] for part in parts()])[place]
        np.testing.assert_allclose(alone[0], together[number], rtol=1e-5, atol=1e-5)
