"""Predictions of many shards in one file, resumable: what a killed call has finished, the next takes over.

While OUTPUT is being made, the folder `OUTPUT.partial` beside it holds a part for each finished shard: a Parquet file
of what OUTPUT is to say of its videos. OUTPUT, whatever its format, is written from the parts in the order of the
shards, and so is the same to the byte whether they are of one call or of several. Then the folder is removed.

A part is called KEY-VIDEOS-SKIPPED-BYTES.parquet. The key is a digest of all that it follows from: the model's file,
the shard and the options. So no other model's part is ever taken over, nor one of a shard that was changed since. Batch
size and threads are not in it: what they change is rounding. A part with skipped records is taken over only where they
are to be skipped again.

Ranks write the parts of shards of their own; rank 0 writes OUTPUT.
"""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidfit import distributed
from vidfit.features.batch import Batch
from vidfit.features.loader import NoRecordsError
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import estimate_records
from vidfit.features.skipped import Skipped
from vidfit.features.survey import state_of
from vidfit.files import make_folder, visible
from vidfit.inference.prediction_files import merge_predictions, write_predictions
from vidfit.inference.predictor import Predictor

Rows = list[tuple[str, np.ndarray]]
"""Ids and probabilities `[C]` float32."""


@dataclass
class Written:
    """What a file of predictions was made from."""

    videos: int
    skipped: Skipped
    """What was left out, by earlier calls too."""
    resumed: int
    """Shards that earlier calls had finished."""


def predict_shards(
    output: Path,
    shards: Sequence[Path],
    predictor: Predictor,
    origin: Sequence[object],
    top_k: int = 20,
    *,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Writes the best classes of every video in some shards; goes on where a killed or failed call stopped.

    All ranks call it together.

    Arguments:
        output: the file; its suffix chooses the format (see `predictions.py`).
        shards: TFRecord files, each once.
        predictor: of the model.
        origin: what its predictions follow from, as JSON can say it: a digest of the model's file, `fill_up`.
        top_k: classes written of each video, at least 1.
        skip_corrupt: pass over damaged records.
        overwrite: replace a file that exists.
        show: called with (videos predicted by this call, about how many it has to); of ranks, each with its own.

    Raises:
        OutputError: the suffix is unknown, the file exists and `overwrite` is False, or it cannot be written.
        DataError: a record is damaged (unless `skip_corrupt`) or does not fit the model, or there is no sound record at
            all. The shards before it are finished.
    """
    folder = output.with_name(f"{output.name}.partial")
    # Once, for a rank that looked a moment later might find what another has made in this call.
    keys = distributed.once(lambda: [_key(shard, top_k, origin) for shard in shards])
    finished = distributed.once(lambda: _finished(folder, skip_corrupt))
    missing = [(shard, key) for shard, key in zip(shards, keys, strict=True) if key not in finished]
    made = Written(videos=0, skipped=Skipped(), resumed=len(shards) - len(missing))

    def parts() -> Iterator[Path]:
        make_folder(folder)
        own = distributed.share(missing)
        predicted = _predict([shard for shard, _ in own], predictor, skip_corrupt, show)
        written = (_write_part(folder, key, predicted, predictor.vocabulary, top_k) for _, key in own)
        more = distributed.in_order(written, len(missing))
        for key in keys:
            part = finished.get(key) or next(more)
            videos, skipped = _counts(part)
            made.videos += videos
            made.skipped += skipped
            yield part
        if not made.videos:
            raise NoRecordsError(shards, made.skipped)

    if distributed.number():
        deque(parts(), maxlen=0)
        return made
    try:
        merge_predictions(output, parts(), predictor.vocabulary, overwrite=overwrite)
        shutil.rmtree(folder)
    finally:
        with suppress(OSError):  # it has parts, or there is none
            folder.rmdir()
    return made


def _predict(
    shards: Sequence[Path], predictor: Predictor, skip_corrupt: bool, show: Callable[[int, int], None]
) -> Iterator[Rows | Skipped]:
    """Of each shard in turn the rows of some videos and some more, and then what was left out in it."""
    if not shards:
        return
    videos, total = 0, estimate_records(shards)
    batches = predictor.batches(shards, skip_corrupt=skip_corrupt)
    for read in read_ahead(batches.shard_by_shard(shards)):
        if isinstance(read, Batch):
            yield list(zip(read.ids, predictor.predict_batch(read), strict=True))
            videos += len(read)
            show(videos, total)
        else:
            yield read


def _write_part(
    folder: Path, key: str, predicted: Iterator[Rows | Skipped], vocabulary: Sequence[str], top_k: int
) -> Path:
    """Of the next shard that is predicted."""
    skipped = Skipped()

    def rows() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal skipped
        while not isinstance(some := next(predicted), Skipped):
            yield from some
        skipped = some

    unnamed = folder / f"unfinished-{distributed.number()}.parquet"
    videos = write_predictions(unnamed, rows(), vocabulary, top_k, overwrite=True)
    return unnamed.rename(folder / f"{key}-{videos}-{skipped.records}-{skipped.bytes}.parquet")


def _finished(folder: Path, skip_corrupt: bool) -> dict[str, Path]:
    """Key -> part."""
    parts = {path.name.partition("-")[0]: path for path in visible(folder, "*-*-*-*.parquet")}
    return {key: path for key, path in parts.items() if skip_corrupt or not _counts(path)[1]}


def _counts(part: Path) -> tuple[int, Skipped]:
    """Videos, and what was left out."""
    _, videos, records, lost = part.stem.split("-")
    return int(videos), Skipped(int(records), int(lost))


def _key(shard: Path, top_k: int, origin: Sequence[object]) -> str:
    inputs = [str(shard.resolve()), *state_of(shard), top_k, *origin]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
