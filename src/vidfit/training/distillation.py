"""Soft labels: what teachers say of the training videos, kept beside the shards and learnt from with the labels.

A teacher's `top_k` probabilities of each video are written once, in half precision, to one Parquet file a shard, keyed
by video id: never a copy of the features. Training joins them by id, so it only ever sees those of its own videos. What
is outside the top k counts as zero (docs/ablation.md has what the alternative was worth).

The file's columns, one row a video:

    id             string
    labels         list of uint16 (uint32 above 65,536 classes): class indices, best first
    probabilities  list of float16

Source: Hinton et al. 2015 (arXiv 1503.02531) for distillation; Skalic & Austin 2018 for the loss and generations.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidfit.errors import DataError, OutputError, reason
from vidfit.evaluation.metrics import top_classes
from vidfit.features.batches import Batch
from vidfit.files import replacing

TOP_K = 100
_METADATA = b"vidfit"

Predict = Callable[[Batch], np.ndarray]
"""Probabilities float32 `[B, C]` of a batch."""


class DistillConfig(BaseModel):
    """What members learn from beside the labels: earlier generations of the recipe's members, or given soft labels."""

    model_config = ConfigDict(extra="forbid")

    generations: int | None = Field(
        default=None, gt=0, description="how often students take their teachers' place; or ..."
    )
    soft_labels: str | None = Field(default=None, description="... a folder that `vidfit soft-label` wrote")
    teachers: list[str] | Literal["own"] | None = Field(
        default=None, description="members that teach all together, or own: each member its own successor"
    )
    folds: int | None = Field(
        default=None, gt=1, description="train each teacher so often, without a part of the shards, to label that part"
    )
    share: float = Field(
        default=0.5, gt=0, le=1, alias="lambda", description="weight of the teachers' part of the loss"
    )
    top_k: int = Field(default=TOP_K, gt=0, description="probabilities kept of a video")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.generations is None) == (self.soft_labels is None):
            raise ValueError("give either generations or soft_labels")
        if self.soft_labels is not None and (self.teachers is not None or self.folds is not None):
            raise ValueError("soft_labels are there already: teachers and folds belong to generations")
        return self


class SoftLabelsInfo(BaseModel):
    """What a file of soft labels was made from; in its Parquet metadata, as JSON."""

    shard: str
    shard_bytes: int
    teachers: list[str]
    """SHA-256 of each teacher's file."""
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


def label_shards(
    shards: Sequence[Path],
    directory: Path,
    teachers: Mapping[Path, Predict],
    classes: int,
    top_k: int,
    batches: Callable[[Path], Iterable[Batch]],
    overwrite: bool = False,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the soft labels of each shard that has none yet.

    Arguments:
        shards: whose videos; no two of the same name.
        directory: there must be such a folder; a file a shard appears in it, whole or not at all.
        teachers: their files, and how each predicts; the soft labels are their mean.
        classes: C.
        top_k: probabilities kept of a video; all where C is smaller.
        batches: the videos of a shard, in any order.
        overwrite: replace files that other teachers or another `top_k` left.
        show: called with (shards done, shards in all).

    Returns:
        How many shards were labelled; the others had been before.

    Raises:
        OutputError: a file is there that was made from something else, or one cannot be written.
        DataError: a shard cannot be read.
    """
    check_names(shards)
    digests = [_digest(teacher) for teacher in teachers]
    labelled = 0
    for done, shard in enumerate(shards):
        show(done, len(shards))
        path = soft_labels_file(directory, shard)
        info = SoftLabelsInfo(
            shard=shard.name, shard_bytes=shard.stat().st_size, teachers=digests, classes=classes, top_k=top_k
        )
        if path.exists() and not overwrite:
            if _read_info(path) == info:
                continue
            raise OutputError(
                f"{path}: was made from another shard, by other teachers or with another top_k; "
                "choose another folder or add --overwrite"
            )
        _write(path, info, batches(shard), list(teachers.values()))
        labelled += 1
    show(len(shards), len(shards))
    return labelled


class SoftLabels:
    """Soft labels in memory: 4 bytes a probability and the ids, 1.6 GB for YouTube-8M's 3.9 M videos and 100 each.

    Where an id comes twice, as with a video in two shards, the first shard's counts.

    Arguments:
        directory: what `vidfit soft-label` wrote.
        classes: C, the labels known to the student.

    Raises:
        DataError: there are none, or a file is damaged or of another number of classes.
    """

    def __init__(self, directory: Path, classes: int) -> None:
        self.directory, self._classes = directory, classes
        paths = sorted(directory.glob("*.parquet"))
        if not paths:
            raise DataError(
                f"{directory}: holds no soft labels; make them with `vidfit soft-label TEACHER SHARDS -o DIR`"
            )
        parts = [_read(path, classes) for path in paths]
        if len(widths := {labels.shape[1] for _, labels, _ in parts}) > 1:
            raise DataError(
                f"{directory}: its files hold {sorted(widths)} probabilities a video; label all shards alike"
            )
        ids, labels, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._ids, rows = np.unique(ids, return_index=True)
        self._labels, self._probabilities = labels[rows], probabilities[rows]

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have no soft labels."""
        return [id for id, found in zip(ids, self._find(ids)[1], strict=True) if not found]

    def of(self, ids: Sequence[str]) -> torch.Tensor:
        """The teachers' probabilities of videos that are all there: float32 `[B, C]`, 0 outside the top k."""
        rows_B, found_B = self._find(ids)
        assert found_B.all()
        soft_BC = torch.zeros(len(ids), self._classes)
        labels_BK = torch.from_numpy(self._labels[rows_B].astype(np.int64))
        return soft_BC.scatter_(1, labels_BK, torch.from_numpy(self._probabilities[rows_B].astype(np.float32)))

    def _find(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the ids, and whether they are theirs."""
        wanted = np.array([id.encode() for id in ids])
        rows = np.searchsorted(self._ids, wanted).clip(max=len(self._ids) - 1)
        return rows, self._ids[rows] == wanted


@dataclass
class Teacher:
    """Soft labels and how much they weigh."""

    soft_labels: SoftLabels
    share: float

    def targets(self, ids: Sequence[str], labels_BC: torch.Tensor) -> torch.Tensor:
        """`lambda * teacher + (1 - lambda) * labels`, float32 `[B, C]`.

        Cross-entropy is linear in its targets, so its value at this mixture is the mixed loss of the method,
        `lambda * BCE(p, teacher) + (1 - lambda) * BCE(p, labels)`.
        """
        return torch.lerp(labels_BC, self.soft_labels.of(ids).to(labels_BC.device), self.share)

    def incomplete(self, batches: Iterable[Batch]) -> DataError:
        """The error for training videos without soft labels; reads all their ids to count them."""
        missing, videos = [], 0
        for batch in batches:
            missing += self.soft_labels.missing(batch.ids)
            videos += len(batch)
        return DataError(
            f"{self.soft_labels.directory}: {len(missing):,} of {videos:,} training videos have no soft labels there, "
            f"such as {missing[0]}; run `vidfit soft-label` over all training shards"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, info: SoftLabelsInfo, batches: Iterable[Batch], teachers: Sequence[Predict]) -> None:
    width = min(info.top_k, info.classes)
    ids: list[str] = []
    labels = [np.empty((0, width), np.int64)]
    probabilities = [np.empty((0, width), np.float32)]
    for batch in batches:
        predicted_BC = np.mean([predict(batch) for predict in teachers], axis=0)
        ids += batch.ids
        labels.append(top_classes(predicted_BC, width))
        probabilities.append(np.take_along_axis(predicted_BC, labels[-1], axis=1))
    label_type = np.uint16 if info.classes <= 1 << 16 else np.uint32
    offsets = pa.array(np.arange(len(ids) + 1) * width, pa.int32())
    columns = {
        "id": pa.array(ids, pa.string()),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(labels).astype(label_type).ravel())),
        "probabilities": pa.ListArray.from_arrays(
            offsets, pa.array(np.concatenate(probabilities).astype(np.float16).ravel())
        ),
    }
    table = pa.table(columns).replace_schema_metadata({_METADATA: info.model_dump_json()})
    with replacing(path) as partial:
        # High and low bytes apart compress to two thirds; measured on AudioSet (docs/ablation.md).
        split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("labels", "probabilities")}
        pq.write_table(table, partial, compression="zstd", use_dictionary=False, column_encoding=split)


def _read_info(path: Path) -> SoftLabelsInfo:
    try:
        return SoftLabelsInfo.model_validate_json((pq.read_schema(path).metadata or {})[_METADATA])
    except (pa.ArrowException, OSError, KeyError, ValidationError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels `[V, k]` and probabilities `[V, k]` of a file."""
    info = _read_info(path)
    if info.classes != classes:
        raise DataError(
            f"{path}: is of {info.classes:,} classes, the vocabulary has {classes:,}; label with another teacher"
        )
    try:
        table = pq.read_table(path)
        ids = table["id"].cast(pa.binary()).to_numpy()
        labels, probabilities = (
            table[name].combine_chunks().flatten().to_numpy().reshape(len(ids), min(info.top_k, classes))
            for name in ("labels", "probabilities")
        )
        if (labels >= classes).any() or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("holds labels or probabilities that there cannot be")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    return ids.astype(bytes), labels, probabilities


def _unreadable(path: Path, error: Exception) -> DataError:
    what = f"its metadata lack {error}" if isinstance(error, KeyError) else reason(error)
    return DataError(f"{path}: not a readable file of soft labels ({what}); remove it and label its shard again")
