"""Graphs of a test's own, in ONNX Runtime."""

import onnxruntime

from vidfit.export.graph_writer import GraphWriter


def session(graph: GraphWriter) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime."""
    return onnxruntime.InferenceSession(graph.serialise())
