"""What distillation gave a finished run: its students against the same architectures on labels alone, at equal steps.

The teachers of a run's generation 0 learnt from labels alone; those that are members too have a student of the same
settings. Reported are GAP on the eval shards, the difference, and its 95 % interval over the eval videos (paired
bootstrap). That is one training each: the interval says nothing of other seeds; `ablation.py` has three.
"""

import argparse
from pathlib import Path

import numpy as np
from table import options, publish

from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.inference.predictor import load
from vidfit.recipe import load_recipe
from vidfit.training.checkpoint import BEST, read_member

TOP = 20


def ranked(probabilities_BC: np.ndarray, labels_BC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The top 20 of every video, all together by probability: whose each is, and whether it is right."""
    top = np.argpartition(-probabilities_BC, TOP, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(probabilities_BC, top, 1).ravel(), kind="stable")
    videos = np.repeat(np.arange(len(top)), TOP)
    return videos[order], np.take_along_axis(labels_BC, top, 1).ravel()[order]


def gap(ranking: tuple[np.ndarray, np.ndarray], copies_B: np.ndarray, positives_B: np.ndarray) -> float:
    """GAP@20 where each video counts `copies` times."""
    videos, right = ranking
    weights = copies_B[videos].astype(np.float64)
    precision = np.cumsum(weights * right) / np.cumsum(weights).clip(1)
    return float((weights * right * precision).sum() / (copies_B * positives_B).sum())


def main() -> None:
    parser: argparse.ArgumentParser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path, help="run folder of a recipe with distill.generations")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    teachers = arguments.run / "distillation" / "0" / "teachers"
    names = [folder.name for folder in sorted(teachers.iterdir()) if (folder / BEST).exists()]
    spec = read_member(teachers / names[0] / BEST)[0].spec
    classes = len(read_member(teachers / names[0] / BEST)[0].vocabulary)
    shards = expand_shards(load_recipe(arguments.run / "recipe.yaml").data.eval)
    batches: list[Batch] = list(Batches(shards, spec, classes, 256))
    labels_BC = np.concatenate([batch.multi_hot(classes).numpy() for batch in batches])
    positives_B = labels_BC.sum(1).clip(max=TOP)

    def predict(file: Path) -> np.ndarray:
        member = load(file)
        return np.concatenate([member.predict_batch(batch) for batch in batches])

    pairs = {n: (predict(teachers / n / BEST), predict(arguments.run / "members" / n / BEST)) for n in names}
    alone, distilled = zip(*pairs.values(), strict=True)
    pairs["mean of these"] = np.mean(alone, axis=0), np.mean(distilled, axis=0)
    random, videos = np.random.default_rng(0), len(positives_B)
    draws = [np.bincount(random.integers(videos, size=videos), minlength=videos) for _ in range(arguments.resamples)]
    rows = []
    for name, sides in pairs.items():
        teacher, student = (ranked(side, labels_BC) for side in sides)
        once = np.ones(videos, int)
        before, after = (gap(ranking, once, positives_B) for ranking in (teacher, student))
        changes = [gap(student, draw, positives_B) - gap(teacher, draw, positives_B) for draw in draws]
        low, high = np.percentile(changes, [2.5, 97.5])
        row = {"member": name, "labels alone": f"{before:.4f}", "distilled": f"{after:.4f}"}
        rows.append({**row, "change": f"{after - before:+.4f}", "95 %": f"{low:+.4f} to {high:+.4f}"})
    publish(f"GAP on {videos} eval videos, one training each", rows, arguments.json)


if __name__ == "__main__":
    main()
