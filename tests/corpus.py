"""A small learnable corpus for tests: two modalities, videos of unequal length, a label shifts the frames it is in."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidfit.features.example import to_sequence_example
from vidfit.features.spec import Video
from vidfit.features.tfrecord import write_records

SIZES = {"rgb": 24, "audio": 8}
LABELS = ("rain", "train", "dog, barking", "guitar", "déjà vu")
VIDEOS = {"train": 96, "validation": 40, "eval": 48}


def videos(count: int, seed: int) -> Iterator[Video]:
    """`count` videos of 1 to 9 frames with one or two labels."""
    looks = {name: np.random.default_rng(7).normal(size=(len(LABELS), size)) for name, size in SIZES.items()}
    random = np.random.default_rng(seed)
    for number in range(count):
        length = int(random.integers(1, 10))
        labels = np.unique(random.integers(len(LABELS), size=2))
        frames = {}
        for name, size in SIZES.items():
            shift = looks[name][random.choice(labels, length)]
            values = 128 + 40 * shift + 25 * random.normal(size=(length, size))
            frames[name] = values.clip(0, 255).astype(np.uint8)
        yield Video(f"{seed}-{number}", frames, labels)


def write_corpus(folder: Path) -> Path:
    """Three sets of two shards each, and `vocabulary.csv` with its rows out of order."""
    for seed, (name, count) in enumerate(VIDEOS.items()):
        (folder / name).mkdir(parents=True)
        everything = list(videos(count, seed))
        for part in range(2):
            records = [to_sequence_example(video) for video in everything[part::2]]
            write_records(folder / name / f"{name}{part}.tfrecord", records)
    rows = [f'{index},"{label}"' for index, label in enumerate(LABELS)]
    (folder / "vocabulary.csv").write_text("\n".join(["label_id,label_name", *reversed(rows)]) + "\n", encoding="utf-8")
    return folder


RECIPE = """
data:
  train: {corpus}/train
  validation: {corpus}/validation
  eval: {corpus}/eval
  vocabulary: {corpus}/vocabulary.csv
training:
  steps: 24
  batch_size: 16
  sample_frames: 6
  learning_rate: 0.02
  validate_every: 8
  batch_norm_momentum: 0.1
members:
  mean:
    family: {{type: mean}}
    head: {{type: logistic}}
  vlad:
    family: {{type: netvlad, clusters: {{rgb: 32, audio: 8}}, hidden: 32}}
    head: {{type: moe, experts: 2, label_gating: true, dropout: 0.2}}
  lstm:
    family: {{type: lstm, cells: 96}}
    head: {{type: logistic}}
pack: {{budget: 330kB, members: {{vlad: 2, lstm: 1}}}}
"""


def write_recipe(folder: Path, corpus: Path) -> Path:
    """A recipe of three members, two of them with tensors large enough to be quantised."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(corpus=corpus))
    return path


SMALL_GRAPHS = """members={
  mean: {family: {type: mean}, head: {type: logistic}, training: {steps: 40}},
  frames: {encoder: {hidden: [160, 160]}, family: {type: frame-classifier, pooling: mean}, training: {steps: 3}},
}"""
"""Settings for tests that search and pack: two members that are soon written, of about the same GAP."""

MEAN_ALONE = ("pack.members=[mean]",)
"""Settings for tests that are not about the packed file: its graph is written in seconds."""
