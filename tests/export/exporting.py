"""Graphs of a test's own, in ONNX Runtime."""

from pathlib import Path

import onnxruntime

from vidfit.export.graph_writer import GraphWriter


def session(graph: GraphWriter, path: Path | None = None) -> onnxruntime.InferenceSession:
    """The graph in ONNX Runtime; also written to `path`."""
    content = graph.serialise()
    if path is not None:
        path.write_bytes(content)
    return onnxruntime.InferenceSession(content)
