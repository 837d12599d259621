"""Small labelled videos for tests of `vidfit fit`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidfit.features.example import write_shard
from vidfit.features.spec import Video
from vidfit.files import write_table
from vidfit.videos.backbones import find_backbone
from vidfit.videos.extractor import Extractor, Settings
from vidfit.videos.transform import fit_transform

NAMES = ("rain", "train", "dog, barking", "guitar")
SIZES = {"rgb": 12, "audio": 4}
MEAN = {"family": {"type": "mean"}, "head": {"type": "logistic"}}
SOLVED = MEAN | {"training": {"solver": "lbfgs", "steps": 12, "batch_size": 16}}
FRAMES = {"encoder": {"hidden": [8]}, "family": {"type": "frame-classifier", "pooling": "max"}}
TRAINING = {"steps": 12, "batch_size": 16, "learning_rate": 0.05, "validate_every": 6, "shuffle_buffer": 64}


def one_or_two(number: int) -> list[int]:
    """Labels of a video: `number % 4`, and for every third video the next one too."""
    first = number % len(NAMES)
    return sorted({first, (first + (number % 3 == 0)) % len(NAMES)})


def write_videos(path: Path, count: int, seed: int = 0, labels: Callable[[int], Sequence[int]] = one_or_two) -> Path:
    """One shard of videos of one to three frames; a label shifts the frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    looks = np.random.default_rng(7).normal(size=(16, sum(SIZES.values())))
    random = np.random.default_rng(seed)
    videos = []
    for number in range(count):
        own = np.array(labels(number), int)
        values = 128 + 40 * looks[own].sum(axis=0) + 25 * random.normal(size=(random.integers(1, 4), looks.shape[1]))
        frames = values.clip(0, 255).astype(np.uint8)
        split = SIZES["rgb"]
        videos.append(Video(f"{seed}-{number}", {"rgb": frames[:, :split], "audio": frames[:, split:]}, own))
    write_shard(path, videos)
    return path


def write_names(path: Path, names: Sequence[str] = NAMES) -> Path:
    """A vocabulary."""
    path.write_text("\n".join(["label_id,label_name", *(f'{i},"{name}"' for i, name in enumerate(names))]) + "\n")
    return path


def write_features(folder: Path, count: int) -> Path:
    """A folder as `vidfit extract` leaves it, with intervals: each label holds in the first two seconds."""
    write_videos(folder / "shards" / "train-0.tfrecord", count)
    write_names(folder / "vocabulary.csv")
    settings = Settings(backbones=(find_backbone("efficientnet-lite0", "rgb"), find_backbone("yamnet", "audio")))
    transforms = {
        it.modality: fit_transform([np.random.default_rng(0).normal(size=(40, it.embedding_size))], SIZES[it.modality])
        for it in settings.backbones
    }
    (folder / "extractor.json").write_text(Extractor(settings=settings, transforms=transforms).model_dump_json())
    rows = [(f"0-{number}", NAMES[label], 0, 2) for number in range(count) for label in one_or_two(number)]
    write_table(folder / "segments.csv", ("path", "label", "start", "end"), rows)
    return folder


def two_members(*_: Any) -> list[tuple[str, dict[str, Any]]]:
    """In place of the portfolio: two that are soon trained."""
    return [("mean", MEAN | {"training": TRAINING}), ("frames", FRAMES | {"training": TRAINING})]
