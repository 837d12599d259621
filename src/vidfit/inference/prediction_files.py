"""Write predictions to a file. Its suffix chooses the format: `.csv` (Kaggle's), `.parquet` or `.jsonl`.

Only the `top_k` best classes per video are written, best first. Parquet and JSON lines hold the same four columns:

    id             string
    labels         list of strings, the label names
    indices        list of int32, the class indices
    probabilities  list of float32

Kaggle's CSV has the header `VideoId,LabelConfidencePairs` and lines `id,index probability index probability ...`.
Probabilities have enough digits to read the same float32 back.

Videos stream through in groups, so memory does not grow with their number. The file appears when it is complete, or not
at all.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidfit.errors import OutputError, reason
from vidfit.evaluation.metrics import top_classes
from vidfit.files import check_place, replacing

_SELECTED_TOGETHER: Final = 256
_VIDEOS_PER_ROW_GROUP: Final = 1 << 14


@dataclass
class _Best:
    """The best K classes of some videos: `indices` int32 and `probabilities` float32, both `[B, K]`, best first."""

    ids: list[str]
    indices: np.ndarray
    probabilities: np.ndarray


def write_predictions(
    path: str | Path,
    rows: Iterable[tuple[str, np.ndarray]],
    vocabulary: Sequence[str],
    top_k: int = 20,
    *,
    overwrite: bool = False,
) -> int:
    """Write the best classes of each video. An existing file stays until the new one is complete.

    Arguments:
        path: the file; its suffix chooses the format.
        rows: video id and probabilities `[C]` float32, one video after another. Nothing is drawn from it until `path`
            is known to be usable.
        vocabulary: label names, C of them.
        top_k: classes written per video, at least 1; all C if C is smaller.
        overwrite: replace an existing file.

    Returns:
        How many videos were written.

    Raises:
        OutputError: the suffix is unknown, the file exists and `overwrite` is False, or it cannot be written.
    """
    return _write(Path(path), _select(rows, min(top_k, len(vocabulary))), vocabulary, overwrite)


def merge_predictions(
    path: str | Path, parts: Iterable[Path], vocabulary: Sequence[str], *, overwrite: bool = False
) -> int:
    """Join Parquet files of predictions, one after another, in the format of `path`.

    Arguments:
        path, vocabulary, overwrite: as in `write_predictions`.
        parts: Parquet files that `write_predictions` wrote with this vocabulary. Nothing is drawn from it until `path`
            is known to be usable.

    Returns:
        How many videos were written.

    Raises:
        OutputError: as in `write_predictions`, or a part cannot be read.
    """
    return _write(Path(path), (group for part in parts for group in _read_parquet(part)), vocabulary, overwrite)


def check_output(path: Path, overwrite: bool) -> None:
    """Raises OutputError if predictions cannot be written to `path`; see `write_predictions`."""
    if path.suffix.lower() not in _WRITERS:
        raise OutputError(
            f"{path}: {path.suffix or 'no suffix'} is not a known format; choose a name that ends in "
            f"{', '.join(_WRITERS)}"
        )
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name or allow overwriting (--overwrite)")
    check_place(path)


def _write(path: Path, groups: Iterable[_Best], vocabulary: Sequence[str], overwrite: bool) -> int:
    check_output(path, overwrite)
    with replacing(path) as partial:
        return _WRITERS[path.suffix.lower()](partial, groups, vocabulary)


def _read_parquet(path: Path) -> Iterator[_Best]:
    try:
        # Opened here: pyarrow takes some names for addresses, such as `run-12:30`.
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            for batch in file.iter_batches(_SELECTED_TOGETHER, columns=["id", "indices", "probabilities"]):
                shape = len(batch), -1
                yield _Best(
                    batch["id"].to_pylist(),
                    batch["indices"].flatten().to_numpy().reshape(shape),
                    batch["probabilities"].flatten().to_numpy().reshape(shape),
                )
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"{path}: cannot be read ({reason(error)}); remove it and call again") from error


def _select(rows: Iterable[tuple[str, np.ndarray]], k: int) -> Iterator[_Best]:
    rows = iter(rows)
    while group := list(islice(rows, _SELECTED_TOGETHER)):
        probabilities = np.stack([row for _, row in group]).astype(np.float32, copy=False)
        indices = top_classes(probabilities, k)
        best = np.take_along_axis(probabilities, indices, axis=1)
        yield _Best([id for id, _ in group], indices.astype(np.int32), best)


def _write_csv(path: Path, groups: Iterable[_Best], vocabulary: Sequence[str]) -> int:
    videos = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["VideoId", "LabelConfidencePairs"])
        for group in groups:
            pairs = np.stack([group.indices.astype(str), group.probabilities.astype(str)], axis=2)
            flat = pairs.reshape(len(group.ids), -1)
            writer.writerows((id, " ".join(row)) for id, row in zip(group.ids, flat, strict=True))
            videos += len(group.ids)
    return videos


def _write_jsonl(path: Path, groups: Iterable[_Best], vocabulary: Sequence[str]) -> int:
    videos = 0
    with path.open("w", encoding="utf-8") as file:
        for group in groups:
            # Through strings: converted directly, the float32 0.1 prints as 0.10000000149011612.
            probabilities = group.probabilities.astype(str).astype(np.float64).tolist()
            for id, indices, values in zip(group.ids, group.indices.tolist(), probabilities, strict=True):
                labels = [vocabulary[index] for index in indices]
                line = {"id": id, "labels": labels, "indices": indices, "probabilities": values}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            videos += len(group.ids)
    return videos


def _write_parquet(path: Path, groups: Iterable[_Best], vocabulary: Sequence[str]) -> int:
    schema = pa.schema(
        {
            "id": pa.string(),
            "labels": pa.list_(pa.string()),
            "indices": pa.list_(pa.int32()),
            "probabilities": pa.list_(pa.float32()),
        }
    )
    names = pa.array(vocabulary, pa.string())
    videos = 0
    groups = iter(groups)
    with path.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        while row_group := list(islice(groups, _VIDEOS_PER_ROW_GROUP // _SELECTED_TOGETHER)):
            ids = [id for group in row_group for id in group.ids]
            indices = np.concatenate([group.indices for group in row_group])
            probabilities = np.concatenate([group.probabilities for group in row_group])
            offsets = pa.array(np.arange(len(ids) + 1) * indices.shape[1], pa.int32())
            flat_indices = pa.array(indices.ravel())
            columns = [
                pa.array(ids, pa.string()),
                pa.ListArray.from_arrays(offsets, names.take(flat_indices)),
                pa.ListArray.from_arrays(offsets, flat_indices),
                pa.ListArray.from_arrays(offsets, pa.array(probabilities.ravel())),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            videos += len(ids)
    return videos


_WRITERS: dict[str, Callable[[Path, Iterable[_Best], Sequence[str]], int]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}
