"""vidfit: classify videos from frame features with the best model that fits a given number of bytes.

import vidfit

model = vidfit.load("model.onnx")
probabilities = model.predict({"rgb": rgb, "audio": audio}, num_frames)   # arrays [B, T, D] uint8 -> [B, C]
for video, probabilities in model.predict("shards/*.tfrecord"): ...

summary = vidfit.run(vidfit.load_recipe("recipe.yaml"), "run-folder")
file = vidfit.pack("run-folder", budget="100MB")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidfit.features.example import write_shard
    from vidfit.features.spec import Video
    from vidfit.inference.predictor import Predictor, load
    from vidfit.pipeline import run
    from vidfit.recipe import Recipe, load_recipe
    from vidfit.search.packer import pack

__all__ = ["Predictor", "Recipe", "Video", "load", "load_recipe", "pack", "run", "write_shard"]

_HOMES = {
    "Predictor": "vidfit.inference.predictor",
    "Recipe": "vidfit.recipe",
    "Video": "vidfit.features.spec",
    "load": "vidfit.inference.predictor",
    "load_recipe": "vidfit.recipe",
    "pack": "vidfit.search.packer",
    "run": "vidfit.pipeline",
    "write_shard": "vidfit.features.example",
}


def __getattr__(name: str):
    """Import a public name at its first use: `vidfit --help` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vidfit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
