"""What it costs to know the content of shards: `survey_shards` at its first call and at its second.

A survey reads a shard's checksum, its labels and its number of videos, and keeps them with the file's size and times of
change. Of TFRecord files the first call reads every byte; of a cache only the index and each record's stored checksum.
Beside it: reading all bytes and no more. The files are in the page cache.

Run it: `python benchmarks/survey.py --shards FOLDER --cached 1000`.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from table import options, publish

from vidfit.features.cache_writer import write_cache
from vidfit.features.example import write_shard
from vidfit.features.shards import expand_shards, infer_id_key, infer_spec
from vidfit.features.spec import Video
from vidfit.features.survey import survey_shards

VIDEOS, FRAMES, SIZE = 4, 100, 1024


def seconds(shards: list[Path]) -> float:
    begun = time.perf_counter()
    survey_shards(shards)
    return time.perf_counter() - begun


def row(name: str, shards: list[Path]) -> dict[str, str | float]:
    """Both calls, and reading."""
    begun = time.perf_counter()
    for shard in shards:
        shard.read_bytes()
    reading = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as kept:
        os.environ["XDG_CACHE_HOME"] = kept
        first = seconds(shards)
        time.sleep(0.1)
        # A file that has just been written is surveyed again: its times of change say nothing yet.
        seconds(shards)
        second = seconds(shards)
    size = sum(shard.stat().st_size for shard in shards)
    return {
        "shards": f"{len(shards):,} {name}",
        "MB": size / 1e6,
        "reading, s": reading,
        "first, s": first,
        "second, s": second,
    }


def cached(folder: Path, shards: int) -> list[Path]:
    """A cache of so many shards."""
    random = np.random.default_rng(0)
    (folder / "shards").mkdir()
    for number in range(shards):
        videos = (
            Video(f"{number}-{place}", {"rgb": random.integers(0, 256, (FRAMES, SIZE), np.uint8)}, np.array([place]))
            for place in range(VIDEOS)
        )
        write_shard(folder / "shards" / f"train{number:04}.tfrecord", videos)
    made = expand_shards([folder / "shards"])
    write_cache(made, folder / "cache", infer_id_key(made), infer_spec(made))
    return expand_shards([folder / "cache"])


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--shards", type=Path, help="a folder of TFRecord shards, such as AudioSet's")
    parser.add_argument("--cached", type=int, default=1000, help="shards of the cache that is made")
    arguments = parser.parse_args()
    rows = []
    if arguments.shards:
        rows.append(row("of TFRecords", expand_shards([arguments.shards])))
    with tempfile.TemporaryDirectory() as folder:
        rows.append(row("of a cache", cached(Path(folder), arguments.cached)))
    publish("surveys", rows, arguments.json)


if __name__ == "__main__":
    main()
