"""Every family as an ONNX graph with dynamic batch and length: ONNX Runtime equals PyTorch on other sizes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.models.test_formulas import FAMILIES, build, bytes_of
from vidfit.models.classifier import FrameClassifier


def export(module: FrameClassifier, path: Path) -> onnxruntime.InferenceSession:
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames")
    _, example = bytes_of((3, 2), seed=0)
    torch.onnx.export(
        module,
        (example, torch.tensor([3, 2])),
        path,
        dynamo=True,
        verbose=False,
        input_names=[*example, "num_frames"],
        output_names=["probabilities"],
        dynamic_shapes={"frames": {name: {0: batch, 1: frames} for name in example}, "num_frames": {0: batch}},
    )
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


# The exporter warns of its own tree specs, and that all modalities and `num_frames` share the batch axis.
@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning", "ignore:# The axis name:UserWarning")
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"netvlad relu", "lstm gated", "gru"}))
def test_graph_equals_module(family: str, tmp_path: Path) -> None:
    module = build(FAMILIES[family][0], {"type": "moe", "label_gating": True, "dropout": 0.5}, seed=5).eval()
    session = export(module, tmp_path / "model.onnx")
    for lengths in [(3, 2), (4, 7, 1, 5, 7), (1,), (6,), (1, 1, 1)]:
        _, frames = bytes_of(lengths, seed=6)
        padded = {name: torch.cat([codes, codes[:, :1]], dim=1) for name, codes in frames.items()}
        for slots in (frames, padded):
            feed = {name: codes.numpy() for name, codes in slots.items()} | {"num_frames": np.array(lengths)}
            actual = np.asarray(session.run(None, feed)[0])
            with torch.inference_mode():
                expected = module(slots, torch.tensor(lengths))
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=f"lengths {lengths}")
