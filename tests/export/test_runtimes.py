"""Packed files in the ONNX Runtime at hand. `make test-runtimes` runs these in the oldest and in the newest one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.exporting import session
from tests.export.members import FAMILY_NAMES, arrays, member, run, torch_average
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.weight_formats import PackedWeight
from vidfit.quantization.uniform import QuantScheme, quantize


@pytest.mark.parametrize("scheme", ["8", "4/channel"])
def test_all_families_give_what_pytorch_gives(scheme: str, tmp_path: Path):
    members = [PackedMember(member(name, schemes=QuantScheme.parse(scheme)), 1.0) for name in FAMILY_NAMES]
    write_graph(tmp_path / "model.onnx", members, 10**9)
    inputs = arrays(5, 7)
    # Activations are rounded to bytes.
    found = run(tmp_path / "model.onnx", inputs)
    np.testing.assert_allclose(found, torch_average(members, inputs), atol=2e-4, rtol=0)


@pytest.mark.parametrize("scheme", ["8", "8/channel", "5"])
def test_expanded_weights_are_those_of_the_member(scheme: str):
    """In one row or several: ONNX Runtime moves the reshape that follows."""
    tensor, graph = quantize(torch.randn(150, 40), QuantScheme.parse(scheme)), GraphWriter()
    row = graph.input("row", np.float32, [1, 40])
    graph.output(PackedWeight(graph, "weight", tensor).folded() + row, "weight", [150, 40])
    (found,) = session(graph).run(None, {"row": np.zeros((1, 40), np.float32)})
    np.testing.assert_allclose(np.asarray(found), tensor.dequantize().numpy(), atol=1e-6)
