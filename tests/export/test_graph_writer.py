"""Values of a graph calculate as NumPy does."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from tests.export.exporting import session
from vidfit.export.graph_writer import GraphWriter, Value

A = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
ROW = np.arange(1.0, 6.0, dtype=np.float32)
CASES: dict[str, tuple[Callable[[Value], Value], np.ndarray]] = {
    "sums with numbers and arrays": (lambda a: 1.0 + (a + ROW), 1 + A + ROW),
    "differences": (lambda a: 2.0 - (a - ROW), 2 - (A - ROW)),
    "products from both sides": (lambda a: torch.from_numpy(ROW) * (a * 3.0), ROW * A * 3),
    "quotients": (lambda a: 1.0 / (a / ROW), ROW / A),
    "negation": (lambda a: -a, -A),
    "matrix products": (lambda a: a @ np.ones((5, 2), np.float32), A @ np.ones((5, 2))),
    "a matrix from the left": (lambda a: np.ones((2, 4), np.float32) @ a, np.ones((2, 4)) @ A),
    "reductions keep their axis": (
        lambda a: a.sum(1) + a.max(1) * a.min(1),
        A.sum(1, keepdims=True) + A.max(1, keepdims=True) * A.min(1, keepdims=True),
    ),
    "norms": (lambda a: a.norm(2), np.linalg.norm(A, axis=2, keepdims=True)),
    "softmax": (lambda a: a.softmax(), np.exp(A) / np.exp(A).sum(2, keepdims=True)),
    "functions": (
        lambda a: a.exp().log().abs().sqrt() + a.sigmoid() + a.relu() + a.softplus(),
        np.sqrt(np.abs(A)) + 1 / (1 + np.exp(-A)) + np.maximum(A, 0) + np.log1p(np.exp(A)),
    ),
    "rounding": (lambda a: a.floor() + a.round(), np.floor(A) + np.round(A)),
    "limits": (lambda a: a.clamp(-0.5, 0.5) + a.clamp(low=0.0) + a.clamp(high=0.0), np.clip(A, -0.5, 0.5) + A),
    "shapes": (
        lambda a: a.permute(0, 2, 1).reshape(0, -1).unsqueeze(1).squeeze(1),
        np.swapaxes(A, 1, 2).reshape(3, 20),
    ),
    "parts": (lambda a: a.part(2, 1, 3).pick(0, 2), A[2, :, 1:3]),
    "repetition": (
        lambda a: a.sum(1).expand(1, 6, 1) + a.pick(1, 0).unsqueeze(1).full_like(7.0),
        A.sum(1, keepdims=True).repeat(6, 1) + 7,
    ),
    "a single value side by side": (
        lambda a: a.graph.concat([a.graph.concat([a], 1), a], 1),
        np.concatenate([A, A], 1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_value_calculates_as_numpy_does(case: str):
    write, expected = CASES[case]
    graph = GraphWriter()
    graph.output(write(graph.input("a", np.float32, ["x", 4, 5])), "result", ["x", *expected.shape[1:]])
    onnx.checker.check_model(graph.serialise() and graph.model)
    (found,) = session(graph).run(None, {"a": A})
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)


def test_equal_numbers_are_stored_once_and_arrays_under_their_name():
    graph = GraphWriter()
    a = graph.input("a", np.float32, [5])
    graph.output((a + 1.0) * 1.0 + graph.constant(ROW, "row"), "result", [5])
    names = [tensor.name for tensor in graph.model.graph.initializer]
    assert (len(names), names[1]) == (2, "row")
    assert graph.weight_bytes == 4 + ROW.nbytes


def test_nodes_bear_the_scope_and_no_name_twice():
    graph = GraphWriter()
    value = graph.input("a", np.float32, [5])
    for graph.scope in ("one/", "other/"):
        value = (value + 1.0) + 1.0
    names = [node.name for node in graph.model.graph.node]
    assert len(set(names)) == 4
    assert [name.partition("/")[0] for name in names] == ["one", "one", "other", "other"]
