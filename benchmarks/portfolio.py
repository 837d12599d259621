"""What each member of `vidfit fit`'s portfolio gives on videos that it has not seen, at several numbers of videos.

    python benchmarks/portfolio.py ../shared/data/audioset/train --videos 1000 --videos 5000 \\
        --vocabulary ../shared/data/audioset/class_labels_indices.csv

Each member is trained without a fifth of the videos, and measured on it. Give training shards only.
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from table import options, publish

from vidfit.evaluation.evaluate import evaluate
from vidfit.features.example import write_shard
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.spec import Video, Vocabulary
from vidfit.fitting.fit import most_frames
from vidfit.fitting.portfolio import Traits, portfolio
from vidfit.pipeline import Run
from vidfit.quantization.member import load_member
from vidfit.recipe import Recipe
from vidfit.training.checkpoint import BEST
from vidfit.training.validation import predict


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--vocabulary", required=True, type=Path)
    parser.add_argument("--videos", type=int, action="append", help="may be repeated")
    parser.add_argument("--members", type=int, default=9, help="the first so many of the portfolio")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for videos in arguments.videos or [500]:
            rows += measured(arguments, videos, Path(folder) / str(videos))
    publish("Members of the portfolio on videos not seen", rows, arguments.json)


def measured(arguments: argparse.Namespace, count: int, folder: Path) -> list[dict[str, object]]:
    """A row a member, trained on four fifths of `count` videos drawn with a fixed seed."""
    folder.mkdir()
    shards = expand_shards(arguments.shards)
    videos = [video for shard in shards for video in read_videos(shard) if isinstance(video, Video)]
    drawn = np.random.default_rng(0).permutation(len(videos))[:count]
    train, held_out = folder / "train.tfrecord", folder / "held-out.tfrecord"
    write_shard(held_out, (videos[place] for place in drawn[: count // 5]))
    write_shard(train, (videos[place] for place in drawn[count // 5 :]))
    classes = len(Vocabulary.from_csv(arguments.vocabulary))
    traits = Traits(count, classes, infer_spec([train]).total_size, most_frames([train]))
    rows = []
    for name, settings in islice(portfolio(traits, lambda _: True), arguments.members):
        recipe = Recipe.model_validate(
            {
                "data": {"train": [str(train)], "vocabulary": str(arguments.vocabulary)},
                "members": {name: settings},
                "pack": {"budget": "1GB", "members": [name]},
            }
        )
        run, start = Run(recipe, folder / "run", overwrite=True), perf_counter()
        run.train(name)
        seconds = perf_counter() - start
        classifier = load_member(folder / "run" / "members" / name / BEST).classifier()
        result = evaluate(lambda batch, model=classifier: predict(model, batch), run.data.batches([held_out]), classes)
        rows.append(
            {
                "videos": count,
                "member": name,
                "parameters": run.data.parameters[name],
                "steps": settings["training"]["steps"],
                "seconds": round(seconds, 1),
                "gap": round(result["gap"], 4),
            }
        )
    return rows


if __name__ == "__main__":
    main()
