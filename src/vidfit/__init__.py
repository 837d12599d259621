"""vidfit: classify videos from frame features with the best model that fits a given number of bytes.

import vidfit

model = vidfit.load("model.onnx")
probabilities = model.predict({"rgb": rgb, "audio": audio}, num_frames)   # arrays [B, T, D] uint8 -> [B, C]
for id, probabilities in model.predict_shards("shards/*.tfrecord"): ...

summary = vidfit.run(vidfit.load_recipe("recipe.yaml"), "run-folder")
file = vidfit.pack("run-folder", budget="100MB")
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidfit.features.example import write_shard
    from vidfit.features.spec import Video
    from vidfit.features.video_check import quantize_frames
    from vidfit.inference.predictor import Predictor, load
    from vidfit.pipeline import run
    from vidfit.recipe import Recipe, load_recipe
    from vidfit.search.packer import pack

# Huge pages for large tensors. PyTorch reads it once, when it first allocates; faulting in a gradient of 1.1 GB by
# pages of 4 kB took a third of NetVLAD's training step.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__all__ = ["Predictor", "Recipe", "Video", "load", "load_recipe", "pack", "quantize_frames", "run", "write_shard"]

_HOMES = {
    "Predictor": "vidfit.inference.predictor",
    "Recipe": "vidfit.recipe",
    "Video": "vidfit.features.spec",
    "load": "vidfit.inference.predictor",
    "load_recipe": "vidfit.recipe",
    "pack": "vidfit.search.packer",
    "quantize_frames": "vidfit.features.video_check",
    "run": "vidfit.pipeline",
    "write_shard": "vidfit.features.example",
}


def __getattr__(name: str):
    """Import a public name at its first use: `vidfit --help` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vidfit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
