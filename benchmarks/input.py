"""What reading costs: records of 300 frames, 1,024 + 128 bytes each, with YouTube-8M's keys, from the page cache.

From TFRecord files (checksums compared) and from a cache, up to batches of 128 videos, in this process and in workers;
beside the protobuf parser, TensorFlow's tf.data, and what the machine can do at all. tf.data runs in the interpreter
that `--tensorflow` names, where it is installed, on the same files in the same call; its clock starts with the first
batch, when its graph is there. CPU time is that of the process and all its threads, per record; records a second are by
the clock. Of `--repeats` the fastest counts. Batches are of an epoch that is not the first, as training has them; of a
cache the first, which compares checksums and maps pages, has a row of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import options, publish

import vidfit.features.example as example
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import to_sequence_example
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, read_videos
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import scan_records, write_records

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=1024), Modality(name="audio", size=128)))
FRAMES, CLASSES, BATCH = 300, 3862, 128
RECORD = FRAMES * SPEC.total_size  # bytes of features

TF_DATA = """
import json, sys, time
import tensorflow as tf

files, batch, warm, floats = sys.argv[1].split("\\n"), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "float32"
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

def parse(record):
    context, lists = tf.io.parse_single_sequence_example(
        record,
        {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)},
        {name: tf.io.FixedLenSequenceFeature([], tf.string) for name in ("rgb", "audio")},
    )
    frames = {name: tf.io.decode_raw(values, tf.uint8) for name, values in lists.items()}
    if floats:
        frames = {name: tf.cast(values, tf.float32) * (4 / 255) + (4 / 512 - 2) for name, values in frames.items()}
    return context["id"], context["labels"], frames

data = tf.data.TFRecordDataset(files).map(parse)
data = data.map(lambda name, labels, frames: (name, tf.sparse.to_dense(labels), frames)).padded_batch(batch)
settings = tf.data.Options()
settings.threading.private_threadpool_size = 1
settings.threading.max_intra_op_parallelism = 1
records = 0
for number, (names, _, _) in enumerate(data.with_options(settings)):
    if number == warm:
        clock, cpu = time.perf_counter(), time.process_time()
    elif number > warm:
        records += len(names)
print(json.dumps([records, time.perf_counter() - clock, time.process_time() - cpu]))
"""

Cost = tuple[int, float, float]
"""Records, seconds by the clock, seconds of CPU."""


def cost(items: Iterable[Any], size: Callable[[Any], int] = lambda item: 1) -> Cost:
    """Of drawing all items."""
    clock, cpu = time.perf_counter(), time.process_time()
    records = sum(map(size, items))
    return records, time.perf_counter() - clock, time.process_time() - cpu


def memcpy(memory: np.ndarray, records: int) -> Iterable[None]:
    """Records of one batch into another that is there already; `memory` is `[2, BATCH, RECORD]`."""
    source, batch = memory
    for number in range(records):
        batch[number % BATCH] = source[-1 - number % BATCH]
        yield


def page_cache(shards: list[Path]) -> Iterable[None]:
    """As many bytes at a time as a record has."""
    buffer = bytearray(RECORD)
    for shard in shards:
        with shard.open("rb", buffering=0) as file:
            while file.readinto(buffer) == RECORD:
                yield


def by_protobuf(shards: list[Path]) -> Iterable[Any]:
    """Every record by the parser that the irregular ones need."""
    fast, example.regular_frames = example.regular_frames, lambda data: None
    try:
        for shard in shards:
            yield from read_videos(shard, SPEC, CLASSES)
    finally:
        example.regular_frames = fast


def tf_data(python: str, shards: list[Path], kind: str) -> Cost | None:
    """None where TensorFlow is not installed."""
    if subprocess.run([python, "-c", "import tensorflow"], capture_output=True).returncode:
        return None
    arguments = ["\n".join(map(str, shards)), str(BATCH), "1", kind]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [python, "-c", TF_DATA, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    records, clock, cpu = json.loads(done.stdout.splitlines()[-1])
    return records, clock, cpu


def write_shards(folder: Path, shards: int, records: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"train{shard:04}.tfrecord" for shard in range(shards)]

    def video(number: int) -> Video:
        frames = {own.name: random.integers(0, 256, (FRAMES, own.size), np.uint8) for own in SPEC.modalities}
        return Video(f"{number:04x}", frames, np.unique(random.integers(CLASSES, size=3)))

    for path in paths:
        write_records(path, (to_sequence_example(video(number)) for number in range(records)))
    return paths


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--records", type=int, default=256, help="of a shard; YouTube-8M's have about 1,000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--tensorflow", default=sys.executable, metavar="PYTHON", help="interpreter with TensorFlow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder), arguments.shards, arguments.records)
        write_cache(shards, Path(folder) / "cache", "id", SPEC)
        cached = expand_shards([Path(folder) / "cache"])

        def batches(paths: list[Path], workers: int, shuffle_buffer: int = 0, epoch: int = 1) -> Cost:
            reading = Batches(paths, SPEC, CLASSES, BATCH, workers=workers, shuffle_buffer=shuffle_buffer)
            for before in range(epoch):
                sum(map(len, reading.epoch(before)))
            return cost(reading.epoch(epoch), len)

        def videos(paths: list[Path]) -> Cost:
            return cost(video for path in paths for video in read_videos(path, SPEC, CLASSES))

        memory = np.ones((2, BATCH, RECORD), np.uint8)
        cases: dict[str, Callable[[], Cost | None]] = {
            "memcpy": lambda: cost(memcpy(memory, arguments.shards * arguments.records)),
            "page cache, read": lambda: cost(page_cache(shards)),
            "tf.data, batches of float32": lambda: tf_data(arguments.tensorflow, shards, "float32"),
            "tf.data, batches of bytes": lambda: tf_data(arguments.tensorflow, shards, "uint8"),
            "protobuf, videos": lambda: cost(by_protobuf(shards)),
            "TFRecord, records and CRC": lambda: cost(item for path in shards for item in scan_records(path)),
        }
        for name, paths in (("TFRecord", shards), ("cache", cached)):
            cases[f"{name}, videos"] = lambda paths=paths: videos(paths)
            cases[f"{name}, batches"] = lambda paths=paths: batches(paths, 0)
            if name == "cache":
                cases["cache, batches, first epoch"] = lambda: batches(cached, 0, epoch=0)
            cases[f"{name}, batches, shuffled"] = lambda paths=paths: batches(paths, 0, 256)
            for workers in arguments.workers:
                which = f"{name}, batches, {workers} worker{'s' * (workers > 1)}"
                cases[which] = lambda paths=paths, workers=workers: batches(paths, workers)
        # Round by round, so that what else the machine does strikes all alike.
        costs: dict[str, list[Cost]] = {name: [] for name in cases}
        for _ in range(arguments.repeats):
            for name, measure in cases.items():
                if measured := measure():
                    costs[name].append(measured)
    publish("reading", list(rows(costs)), arguments.json)


def rows(costs: dict[str, list[Cost]]) -> Iterable[dict[str, Any]]:
    cpu = {name: min(each[2] / each[0] for each in runs) for name, runs in costs.items() if runs}
    for name, runs in costs.items():
        if not runs:
            yield {"from": name, "records/s": "not installed"} | dict.fromkeys(COLUMNS, "-")
            continue
        rate = max(each[0] / each[1] for each in runs)
        ratios = [
            cpu[f"tf.data, batches of {kind}"] / cpu[name] if f"tf.data, batches of {kind}" in cpu else "-"
            for kind in ("float32", "bytes")
        ]
        figures = (rate * RECORD / 1e6, cpu[name] * 1e3, *ratios)
        yield {"from": name, "records/s": rate} | dict(zip(COLUMNS, figures, strict=True))


COLUMNS = ("MB/s", "CPU ms a record", "tf.data float32 / this", "tf.data bytes / this")

if __name__ == "__main__":
    main()
