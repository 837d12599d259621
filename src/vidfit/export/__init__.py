"""Members as one graph file: ONNX, or from that a TensorFlow SavedModel."""
