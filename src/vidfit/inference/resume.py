"""Predict many shards into one file, resumably: the next call takes over the shards that a killed call finished.

Meanwhile the folder `OUTPUT.partial` holds a Parquet file of predictions for each finished shard, called a part. At the
end the parts are merged into OUTPUT in the shards' order, and the folder is removed. So OUTPUT is byte for byte the
same, however often you stopped.

A part is called KEY-VIDEOS-SKIPPED-BYTES.parquet. The key is a digest of everything that changes its content: the
model's file, the shard and the options. Batch size and threads only change rounding, so they are left out. A part with
skipped records is only used by calls that skip corrupt records, too.

Each rank writes parts. Rank 0 writes OUTPUT, and locks the folder against other calls.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
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
from vidfit.files import cannot_write, visible
from vidfit.inference.prediction_files import check_output, merge_predictions, write_predictions
from vidfit.inference.predictor import Predictor
from vidfit.locks import LOCK, locked
from vidfit.progress import OnCount, uncounted

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


def predict_to_file(
    output: Path,
    shards: Sequence[Path],
    predictor: Predictor,
    origin: Sequence[object],
    top_k: int = 20,
    *,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    on_count: OnCount = uncounted,
) -> Written:
    """Write the best classes of every video in some shards. Resumes where a killed or failed call stopped.

    All ranks call it together.

    Arguments:
        output: the file; its suffix chooses the format (see `prediction_files.py`).
        shards: TFRecord files, each once.
        predictor: the model.
        origin: what else changes the predictions, as JSON values: a digest of the model's file, `fill_up`.
        top_k: classes written per video, at least 1.
        skip_corrupt: skip damaged records.
        overwrite: replace an existing file.
        on_count: called with (videos predicted by this call, about how many it has to predict), on each rank.

    Raises:
        OutputError: the suffix is unknown, the file exists and `overwrite` is False, it cannot be written, or another
            process is writing it.
        DataError: a record is damaged (unless `skip_corrupt`) or does not fit the model, or there is no sound record at
            all. The shards before it are finished.
    """
    folder = output.with_name(f"{output.name}.partial")
    with ExitStack() as lock:

        def begin() -> tuple[list[str], dict[str, Path]]:
            check_output(output, overwrite)
            lock.callback(_remove_if_empty, folder)
            lock.enter_context(locked(folder))
            keys = [_key(shard, top_k, origin) for shard in shards]
            return keys, _finished(folder, skip_corrupt)

        # On rank 0 alone: another rank might look later, and find parts of this call.
        parts = _Parts(folder, predictor, top_k, skip_corrupt, on_count, *distributed.on_rank_0(begin))
        made = Written(videos=0, skipped=Skipped(), resumed=sum(key in parts.finished for key in parts.keys))
        if distributed.rank():
            deque(parts.of(shards, made), maxlen=0)
            return made
        merge_predictions(output, parts.of(shards, made), predictor.vocabulary, overwrite=overwrite)
        _empty(folder)
    return made


@dataclass
class _Parts:
    """The parts of one call."""

    folder: Path
    predictor: Predictor
    top_k: int
    skip_corrupt: bool
    on_count: OnCount
    keys: list[str]
    """The shards', in their order."""
    finished: dict[str, Path]
    """Key -> part of an earlier call."""

    def of(self, shards: Sequence[Path], made: Written) -> Iterator[Path]:
        """The part of each shard in turn, once it is finished on whatever rank; counts its videos in `made`."""
        missing = [(shard, key) for shard, key in zip(shards, self.keys, strict=True) if key not in self.finished]
        own = distributed.share_of_rank(missing)
        predicted = self._predict([shard for shard, _ in own])
        new = distributed.gather_in_order((self._write(key, predicted) for _, key in own), len(missing))
        for key in self.keys:
            part = self.finished.get(key) or next(new)
            videos, skipped = _counts(part)
            made.videos += videos
            made.skipped += skipped
            yield part
        if not made.videos:
            raise NoRecordsError(shards, made.skipped)

    def _predict(self, shards: Sequence[Path]) -> Iterator[Rows | Skipped]:
        """For each shard in turn: rows of some videos, some more, and at last what was skipped in it."""
        if not shards:
            return
        videos, total = 0, estimate_records(shards)
        batches = self.predictor.batches(shards, skip_corrupt=self.skip_corrupt)
        for read in read_ahead(batches.shard_by_shard(shards)):
            if isinstance(read, Batch):
                yield list(zip(read.ids, self.predictor.predict_batch(read), strict=True))
                videos += len(read)
                self.on_count(videos, total)
            else:
                yield read

    def _write(self, key: str, predicted: Iterator[Rows | Skipped]) -> Path:
        """Write the part of the next shard that is predicted."""
        skipped = Skipped()

        def rows() -> Iterator[tuple[str, np.ndarray]]:
            nonlocal skipped
            while not isinstance(some := next(predicted), Skipped):
                yield from some
            skipped = some

        unnamed = self.folder / f"unfinished-{distributed.rank()}.parquet"
        videos = write_predictions(unnamed, rows(), self.predictor.vocabulary, self.top_k, overwrite=True)
        try:
            return unnamed.rename(self.folder / f"{key}-{videos}-{skipped.records}-{skipped.bytes}.parquet")
        except OSError as error:
            raise cannot_write(self.folder, error) from error


def _empty(folder: Path) -> None:
    """Remove all but the lock: parts, and what killed calls left."""
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds parts, another call's lock, or is gone
        folder.rmdir()


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
