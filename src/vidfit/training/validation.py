"""Measure a member in training on validation videos."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batch import Batch, sent
from vidfit.features.loader import Batches
from vidfit.files import write_text
from vidfit.models.classifier import VideoClassifier


def validate(model: VideoClassifier, batches: Batches) -> dict[str, float]:
    """Metrics of the model over every frame of the batches. The model is left in training mode.

    Of clips only rated labels count: the others have probability 0. Whole videos count by their labels.
    """

    def of_rated(batch: Batch) -> np.ndarray:
        return predict(model, batch) * batch.ratings(model.classes)[1].numpy()

    model.eval()
    rated = batches.clips and not batches.clips.whole
    result = evaluate(of_rated if rated else lambda batch: predict(model, batch), batches, model.classes)
    model.train()
    return result


@torch.inference_mode()
def predict(model: VideoClassifier, batch: Batch) -> np.ndarray:
    """Probabilities of a batch over all its frames, float32 `[B, C]`."""
    device = next(model.parameters()).device
    batch = batch.to(device)
    return model(batch.padded(), sent(batch.num_frames, device)).cpu().numpy()


def add_to_log(path: Path, line: dict[str, Any]) -> None:
    """Add a validation's line to a JSON-lines file. Lines of the same or a later step are dropped.

    Those come from before a kill, and come again.
    """
    lines = [json.loads(old) for old in path.read_text().splitlines()] if path.exists() else []
    kept = [old for old in lines if old["step"] < line["step"]]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in [*kept, line]))
