"""Soft labels: teachers' probabilities for the training videos. Students learn from them and from the true labels.

Each shard has one Parquet file with the `top_k` probabilities of each video, in half precision. Features are not
copied. Training joins the two by video id. Probabilities outside the top k count as zero
(alternatives: benchmarks/LOG.md).

The file's columns, one row per video:

    id             string
    labels         list of uint16 (uint32 above 65,536 classes): class indices, best first
    probabilities  list of float16

Source: Hinton et al. 2015 (arXiv 1503.02531) for distillation; Skalic & Austin 2018 for the loss and generations.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel

from vidfit import distributed
from vidfit.errors import DataError, OutputError, reason
from vidfit.evaluation.metrics import top_classes
from vidfit.features.batch import Batch
from vidfit.features.loader import NoRecordsError
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.features.survey import survey_shards
from vidfit.files import PathText, file_digest, replacing, visible
from vidfit.progress import OnCount, uncounted

_METADATA = b"vidfit"

Predict = Callable[[Batch], np.ndarray]
"""Probabilities float32 `[B, C]` of a batch."""


class SoftLabelsInfo(BaseModel):
    """What a file of soft labels was made from; in its Parquet metadata, as JSON."""

    shard: PathText
    shard_sha256: str = ""
    """Of its content; vidfit 0.1 did not write it."""
    teachers: list[str]
    """SHA-256 of each teacher's file, in order of the alphabet."""
    vocabulary: str
    """SHA-256 of the label names."""
    classes: int
    top_k: int


def soft_labels_file(directory: Path, shard: Path) -> Path:
    """Where the soft labels of a shard lie."""
    return directory / f"{shard.name}.parquet"


def check_names(shards: Sequence[Path]) -> None:
    """Raises DataError where two shards have the same name, as their soft labels would."""
    names = Counter(shard.name for shard in shards)
    name, times = names.most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} shards are called {name}, and so would be their soft labels; rename all but one")


def check_ids(files: Sequence[tuple[Path, np.ndarray]]) -> None:
    """Every video has an id of its own: soft labels are found by id, so one video would learn another's.

    Arguments:
        files: shards or files of soft labels, each with the ids of its videos, `[V]` bytes (`S`).

    Raises:
        DataError: an id occurs twice.
    """
    ids = np.concatenate([ids for _, ids in files])
    rows = np.argsort(ids, kind="stable")
    (again,) = np.nonzero(ids[rows[1:]] == ids[rows[:-1]])
    if len(again):
        ends = np.cumsum([len(ids) for _, ids in files])
        row, other = rows[again[0] : again[0] + 2]
        first, second = (files[np.searchsorted(ends, it, side="right")][0] for it in (row, other))
        where = f"{first}: has two videos" if first == second else f"{first} and {second}: both have a video"
        more = f" ({len(again) - 1:,} more videos share ids)" if len(again) > 1 else ""
        raise DataError(
            f"{where} with the id {bytes(ids[row]).decode()!r}{more}; "
            "give each video its own id, because soft labels are found by id"
        )


def label_shards(
    shards: Sequence[Path],
    directory: Path,
    teachers: Mapping[Path, Predict],
    vocabulary: Sequence[str],
    top_k: int,
    batches: Callable[[Path], Iterable[Batch]],
    overwrite: bool = False,
    on_count: OnCount = uncounted,
) -> tuple[int, Skipped]:
    """Write the soft labels of each shard that has none yet. All ranks call it together, and each writes some.

    Arguments:
        shards: whose videos; no two of the same name.
        directory: there must be such a folder; a file a shard appears in it, whole or not at all.
        teachers: their files, and how each predicts; the soft labels are their mean.
        vocabulary: C label names.
        top_k: probabilities kept of a video; all where C is smaller.
        batches: the videos of a shard, in any order.
        overwrite: replace files that other teachers or another `top_k` left.
        on_count: called with (shards done, shards in all); each rank counts its own.

    Returns:
        How many shards were labelled (the others had been before), and what was left out in them.

    Raises:
        OutputError: a file is there that was made from something else, or one cannot be written.
        DataError: a shard cannot be read.
    """
    # Once, for a rank that looked a moment later might find what another has made in this call.
    digests = distributed.on_rank_0(lambda: sorted(map(file_digest, teachers)))
    missing = distributed.on_rank_0(lambda: _unlabelled(shards, directory, digests, vocabulary, top_k, overwrite))
    own = distributed.share_of_rank(missing)

    def label() -> Iterator[Skipped]:
        for done, (shard, info) in enumerate(own):
            on_count(done, len(own))
            yield _write(soft_labels_file(directory, shard), info, batches(shard), list(teachers.values()))
        on_count(len(own), len(own))

    return len(missing), sum(distributed.gather_in_order(label(), len(missing)), NOTHING)


def _unlabelled(
    shards: Sequence[Path],
    directory: Path,
    digests: list[str],
    vocabulary: Sequence[str],
    top_k: int,
    overwrite: bool,
) -> list[tuple[Path, SoftLabelsInfo]]:
    """The shards without soft labels, and what theirs are to say of themselves."""
    check_names(shards)
    missing: list[tuple[Path, SoftLabelsInfo]] = []
    surveys = survey_shards(shards)
    for shard in shards:
        info = SoftLabelsInfo(
            shard=shard.name,
            shard_sha256=surveys[shard].sha256,
            teachers=digests,
            vocabulary=_digest_names(vocabulary),
            classes=len(vocabulary),
            top_k=top_k,
        )
        path = soft_labels_file(directory, shard)
        found = read_soft_labels_info(path) if path.exists() else None
        if found not in (info, None) and not overwrite:
            raise OutputError(
                f"{path}: was made from another shard, by other teachers or with another top_k; "
                "choose another folder or add --overwrite"
            )
        if found != info:
            missing.append((shard, info))
    return missing


class SoftLabels:
    """Soft labels in memory: 4 bytes a probability and the ids, 1.6 GB for YouTube-8M's 3.9 M videos and 100 each.

    Arguments:
        directory: what `vidfit soft-label` wrote.
        vocabulary: C label names, the student's.

    Raises:
        DataError: there are none, a file is damaged or of other labels, or several videos have the same id.
    """

    def __init__(self, directory: Path, vocabulary: Sequence[str]) -> None:
        self.directory, self._vocabulary, self._classes = directory, vocabulary, len(vocabulary)
        paths = soft_labels_files(directory)
        if not paths:
            raise DataError(
                f"{directory}: holds no soft labels; make them with `vidfit soft-label TEACHER SHARDS -o DIR`"
            )
        parts = [_read(path, vocabulary) for path in paths]
        if len(widths := {labels.shape[1] for _, labels, _ in parts}) > 1:
            raise DataError(
                f"{directory}: its files hold {sorted(widths)} probabilities a video; label all shards alike"
            )
        check_ids([(path, ids) for path, (ids, _, _) in zip(paths, parts, strict=True)])
        ids, labels, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows = np.argsort(ids)
        self._ids, self._labels, self._probabilities = ids[rows], labels[rows], probabilities[rows]

    def __reduce__(self) -> tuple[type[Self], tuple[Path, Sequence[str]]]:
        # Another rank reads them for itself.
        return type(self), (self.directory, self._vocabulary)

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have no soft labels."""
        return [id for id, found in zip(ids, self._find(ids)[1], strict=True) if not found]

    def of(self, ids: Sequence[str]) -> torch.Tensor:
        """The teachers' probabilities of some videos: float32 `[B, C]`, 0 outside the top k.

        Raises:
            KeyError: with the ids that have no soft labels.
        """
        rows_B, found_B = self._find(ids)
        if not found_B.all():
            raise KeyError(*self.missing(ids))
        soft_BC = torch.zeros(len(ids), self._classes)
        labels_BK = torch.from_numpy(self._labels[rows_B].astype(np.int64))
        return soft_BC.scatter_(1, labels_BK, torch.from_numpy(self._probabilities[rows_B].astype(np.float32)))

    def _find(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the ids, and whether they are theirs."""
        wanted = np.array([id.encode() for id in ids])
        rows = np.searchsorted(self._ids, wanted)
        # One past the last id is nobody's.
        found = np.append(self._ids, b"")[rows] == wanted
        return rows, found & (rows < len(self._ids))


def _digest_names(vocabulary: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()


def _write(path: Path, info: SoftLabelsInfo, batches: Iterable[Batch], teachers: Sequence[Predict]) -> Skipped:
    """Label a shard; returns what was left out."""
    width = min(info.top_k, info.classes)
    ids: list[str] = []
    labels = [np.empty((0, width), np.int64)]
    probabilities = [np.empty((0, width), np.float32)]
    skipped = Skipped()
    try:
        for batch in batches:
            skipped += batch.skipped
            predicted_BC = np.mean([predict(batch) for predict in teachers], axis=0)
            ids += batch.ids
            labels.append(top_classes(predicted_BC, width))
            probabilities.append(np.take_along_axis(predicted_BC, labels[-1], axis=1))
    except NoRecordsError as error:
        # Among others such a shard is fine in training, and it has soft labels: none.
        skipped = error.skipped
    label_type = np.uint16 if info.classes <= 1 << 16 else np.uint32
    offsets = pa.array(np.arange(len(ids) + 1) * width, pa.int32())
    columns = {
        "id": pa.array(ids, pa.string()),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(labels).astype(label_type).ravel())),
        "probabilities": pa.ListArray.from_arrays(
            offsets, pa.array(np.concatenate(probabilities).astype(np.float16).ravel())
        ),
    }
    table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(info.model_dump())})
    with replacing(path) as partial:
        # High and low bytes apart compress to two thirds; measured on AudioSet (benchmarks/LOG.md).
        split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("labels", "probabilities")}
        # An open file, because pyarrow takes a path such as run:1/x for a URI.
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=False, column_encoding=split)
    return skipped


def soft_labels_files(directory: Path) -> list[Path]:
    """All soft labels in a folder."""
    return visible(directory, "*.parquet")


def read_soft_labels_info(path: Path) -> SoftLabelsInfo:
    """What a file of soft labels was made from.

    Raises:
        DataError: it is none.
    """
    try:
        with path.open("rb") as file:
            return SoftLabelsInfo.model_validate(json.loads((pq.read_schema(file).metadata or {})[_METADATA]))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path, vocabulary: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels `[V, k]` and probabilities `[V, k]` of a file."""
    info = read_soft_labels_info(path)
    if info.vocabulary != _digest_names(vocabulary):
        raise DataError(f"{path}: its teachers know other labels than this vocabulary; label with another teacher")
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        width = min(info.top_k, len(vocabulary))
        labels = _column(table["labels"], np.integer, width)
        probabilities = _column(table["probabilities"], np.floating, width)
        if not ((labels >= 0) & (labels < len(vocabulary)) & (probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("holds labels or probabilities that are out of range")
        ids = table["id"].cast(pa.binary())
        if ids.null_count:
            raise ValueError("has videos without an id")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    return ids.to_numpy().astype(bytes), labels, probabilities


def _column(lists: pa.ChunkedArray, kind: type, width: int) -> np.ndarray:
    """A column of lists of one length as an array `[V, width]`."""
    array = lists.combine_chunks()
    values = array.flatten().to_numpy()
    if not np.issubdtype(values.dtype, kind) or (array.value_lengths().to_numpy(zero_copy_only=False) != width).any():
        raise ValueError(f"its rows are not all {width} numbers")
    return values.reshape(len(lists), width)


def _unreadable(path: Path, error: Exception) -> DataError:
    what = f"its metadata lack {error}" if isinstance(error, KeyError) else reason(error)
    return DataError(f"{path}: not a readable file of soft labels ({what}); remove it and label its shard again")
