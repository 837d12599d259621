"""GAP of each member of `vidfit fit`'s portfolio on videos that it has not seen, and of the best average so far.

    python benchmarks/portfolio.py ../shared/data/audioset/train --videos 1000 --videos 5000 \\
        --vocabulary ../shared/data/audioset/class_labels_indices.csv --labels 20 --modality audio

Each member is trained on `--videos` of the videos, and measured on up to 2,000 others. `average` is the GAP of the best
average of the members so far, and `of` is how many it has. The videos that measure it also choose it, as in `fit`; so
it is a little high. Give training shards only.
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from table import options, publish

from vidfit.features.example import write_shard
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.spec import Video, Vocabulary
from vidfit.files import write_table
from vidfit.fitting.choice import choose
from vidfit.fitting.fit import most_frames
from vidfit.fitting.portfolio import Traits, portfolio
from vidfit.pipeline import Run
from vidfit.quantization.member import load_member
from vidfit.recipe import Recipe
from vidfit.training.checkpoint import BEST
from vidfit.training.validation import predict

HELD_OUT = 2000


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--vocabulary", required=True, type=Path)
    parser.add_argument("--videos", type=int, action="append", help="to train on; may be repeated")
    parser.add_argument("--labels", type=int, help="only the most frequent ones, and the videos that have one")
    parser.add_argument("--modality", help="only this one")
    parser.add_argument("--members", type=int, help="only the first so many of the portfolio")
    arguments = parser.parse_args()
    names = Vocabulary.from_csv(arguments.vocabulary).names
    shards = expand_shards(arguments.shards)
    videos = [video for shard in shards for video in read_videos(shard) if isinstance(video, Video)]
    if arguments.modality:
        videos = [
            dataclasses.replace(video, frames={arguments.modality: video.frames[arguments.modality]})
            for video in videos
        ]
    if arguments.labels:
        videos, names = with_labels(videos, names, arguments.labels)
    if max(arguments.videos or [500]) >= len(videos):
        parser.error(f"there are {len(videos):,} videos; give fewer as --videos, to measure on the others")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocabulary.csv"
        write_table(vocabulary, ("Index", "Name"), enumerate(names))
        drawn = [videos[place] for place in np.random.default_rng(0).permutation(len(videos))]
        for count in arguments.videos or [500]:
            train, held_out = drawn[:count], drawn[count : count + HELD_OUT]
            rows += measured(train, held_out, vocabulary, arguments.members, Path(folder) / str(count))
    publish("Members of the portfolio on videos not seen", rows, arguments.json)


def with_labels(videos: Iterable[Video], names: tuple[str, ...], count: int) -> tuple[list[Video], tuple[str, ...]]:
    """The videos that have one of the most frequent labels, and the names of these."""
    often = Counter(int(label) for video in videos for label in video.labels).most_common(count)
    places = {label: place for place, (label, _) in enumerate(often)}
    kept = []
    for video in videos:
        labels = [places[int(label)] for label in video.labels if int(label) in places]
        if labels:
            kept.append(dataclasses.replace(video, labels=np.array(sorted(labels), video.labels.dtype)))
    return kept, tuple(names[label] for label in places)


def measured(
    videos: list[Video], others: list[Video], vocabulary: Path, members: int | None, folder: Path
) -> list[dict[str, object]]:
    """A row a member, trained on the videos and measured on the others."""
    folder.mkdir()
    train, held_out = folder / "train.tfrecord", folder / "held-out.tfrecord"
    write_shard(train, videos)
    write_shard(held_out, others)
    classes = len(Vocabulary.from_csv(vocabulary))
    traits = Traits(len(videos), classes, infer_spec([train]).total_size, most_frames([train]))
    rows, predictions = [], {}
    for name, settings in islice(portfolio(traits, lambda _: True), members):
        recipe = Recipe.model_validate(
            {
                "data": {"train": [str(train)], "vocabulary": str(vocabulary)},
                "members": {name: settings},
                "pack": {"budget": "1GB", "members": [name]},
            }
        )
        run, start = Run(recipe, folder / "run", overwrite=True), perf_counter()
        run.train(name)
        seconds = perf_counter() - start
        classifier = load_member(folder / "run" / "members" / name / BEST).classifier()
        batches = list(run.data.batches([held_out]))
        predictions[name] = np.concatenate([predict(classifier, batch) for batch in batches])
        labels = np.concatenate([batch.multi_hot(classes).numpy() for batch in batches]) > 0
        chosen, average = choose(predictions, labels, dict.fromkeys(predictions, 0), 1)
        _, alone = choose({name: predictions[name]}, labels, {name: 0}, 1)
        rows.append(
            {
                "videos": len(videos),
                "labels": classes,
                "member": name,
                "parameters": run.data.parameters[name],
                "steps": settings["training"]["steps"],
                "seconds": round(seconds, 1),
                "gap": round(alone, 4),
                "average": round(average, 4),
                "of": len(chosen),
            }
        )
        print(*rows[-1].values(), flush=True)
    return rows


if __name__ == "__main__":
    main()
