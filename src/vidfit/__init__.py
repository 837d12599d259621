"""vidfit: classify videos with the best model that fits a given number of bytes.

import vidfit

model = vidfit.load("model.onnx")
probabilities = model.predict({"rgb": rgb, "audio": audio}, num_frames)   # arrays [B, T, D] uint8 -> [B, C]
for id, probabilities in model.predict_shards("shards/*.tfrecord"): ...

summary = vidfit.fit("videos/", budget="10MB", output="run-folder", time="1h")
summary = vidfit.run(vidfit.load_recipe("recipe.yaml"), "run-folder")
file = vidfit.pack("run-folder", budget="100MB")
scores = vidfit.evaluate(file, "shards/eval*.tfrecord")

for video in vidfit.label(file, "videos/*.mp4"): ...   # what is in it, and when

The library logs to `logging.getLogger("vidfit")` and reports progress to the callbacks you give it. It prints nothing.
"""

from typing import TYPE_CHECKING

from vidfit.errors import BudgetError, DataError, ModelFileError, OutputError, RecipeError, VidfitError

if TYPE_CHECKING:
    from vidfit.features.example import write_shard
    from vidfit.features.segments import RatedSegments
    from vidfit.features.spec import Video
    from vidfit.features.video_check import quantize_frames
    from vidfit.fitting.fit import fit
    from vidfit.inference.evaluate_timeline import evaluate_segments, evaluate_timeline
    from vidfit.inference.label import label
    from vidfit.inference.on_shards import evaluate, predict
    from vidfit.inference.predictor import Predictor, load
    from vidfit.inference.segment_predictions import predict_segments
    from vidfit.pipeline import run
    from vidfit.progress import Progress
    from vidfit.recipe import Recipe, load_recipe
    from vidfit.search.runs import pack

    __version__: str

__all__ = [
    "BudgetError",
    "DataError",
    "ModelFileError",
    "OutputError",
    "Predictor",
    "Progress",
    "RatedSegments",
    "Recipe",
    "RecipeError",
    "Video",
    "VidfitError",
    "__version__",
    "evaluate",
    "evaluate_segments",
    "evaluate_timeline",
    "fit",
    "label",
    "load",
    "load_recipe",
    "pack",
    "predict",
    "predict_segments",
    "quantize_frames",
    "run",
    "write_shard",
]

_HOMES = {
    "Predictor": "vidfit.inference.predictor",
    "Progress": "vidfit.progress",
    "RatedSegments": "vidfit.features.segments",
    "Recipe": "vidfit.recipe",
    "Video": "vidfit.features.spec",
    "evaluate": "vidfit.inference.on_shards",
    "evaluate_segments": "vidfit.inference.evaluate_timeline",
    "evaluate_timeline": "vidfit.inference.evaluate_timeline",
    "fit": "vidfit.fitting.fit",
    "label": "vidfit.inference.label",
    "load": "vidfit.inference.predictor",
    "load_recipe": "vidfit.recipe",
    "pack": "vidfit.search.runs",
    "predict": "vidfit.inference.on_shards",
    "predict_segments": "vidfit.inference.segment_predictions",
    "quantize_frames": "vidfit.features.video_check",
    "run": "vidfit.pipeline",
    "write_shard": "vidfit.features.example",
}


def __getattr__(name: str):
    """Import a public name at its first use: `vidfit --help` need not wait for PyTorch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("vidfit")
    if name not in _HOMES:
        raise AttributeError(f"module 'vidfit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
