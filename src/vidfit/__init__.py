"""vidfit: classify videos from frame features with the best model that fits a given number of bytes.

import vidfit

model = vidfit.load("model.onnx")
probabilities = model.predict({"rgb": rgb, "audio": audio}, num_frames)   # arrays [B, T, D] uint8 -> [B, C]
for video, probabilities in model.predict("shards/*.tfrecord"): ...

summary = vidfit.run(vidfit.load_recipe("recipe.yaml"), "run-folder")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidfit.pipeline import run
    from vidfit.recipe import Recipe, load_recipe
    from vidfit.runtime.predictor import Predictor, load

__all__ = ["Predictor", "Recipe", "load", "load_recipe", "run"]

_HOMES = {
    "Predictor": "vidfit.runtime.predictor",
    "Recipe": "vidfit.recipe",
    "load": "vidfit.runtime.predictor",
    "load_recipe": "vidfit.recipe",
    "run": "vidfit.pipeline",
}


def __getattr__(name: str):
    """Import a public name at its first use: `vidfit --help` need not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vidfit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
