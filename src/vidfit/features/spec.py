"""What a corpus is made of: modalities (names, sizes, byte or float), class names, and one video as arrays.

Frame-level corpora hold bytes, video-level corpora (one pooled frame a video) hold floats; a spec is one or the other.
Bytes stay bytes in this folder: the models turn them into floats.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vidfit.errors import DataError
from vidfit.features.segments import NO_SEGMENTS, RatedSegments

# (index column, name column) of the known vocabularies: label_names.csv, YouTube-8M's vocabulary.csv, AudioSet's.
_VOCABULARY_COLUMNS = (("label_id", "label_name"), ("Index", "Name"), ("index", "display_name"))

# The packed file's inputs are the modalities and the first of these; its output is the second.
_TAKEN_NAMES = ("num_frames", "probabilities", "frame_probabilities")


class Modality(BaseModel):
    """One feature of a frame: its name in the records, its size and how a value is stored.

    A `uint8` value x stands for `x * 4/255 + 4/512 - 2`, in [-2, 2]; a `float32` value stands for itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    size: int = Field(ge=1)
    dtype: Literal["uint8", "float32"] = "uint8"

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in _TAKEN_NAMES:
            raise ValueError(f"{name!r} is taken in the packed file; write the shards with another name")
        return name


class FeatureSpec(BaseModel):
    """The modalities of a corpus, in the order in which a frame's features are concatenated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[Modality, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureSpec":
        names = [modality.name for modality in self.modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"modalities {names}: each name may occur once")
        if len({modality.dtype for modality in self.modalities}) > 1:
            raise ValueError("modalities are all uint8 (frame level) or all float32 (video level), not a mixture")
        return self

    @property
    def total_size(self) -> int:
        """Values in a concatenated frame."""
        return sum(modality.size for modality in self.modalities)

    @property
    def level(self) -> Literal["frame", "video"]:
        """`frame`: bytes, any number of frames a video; `video`: floats, one frame a video."""
        return "frame" if self.modalities[0].dtype == "uint8" else "video"

    def slices(self) -> dict[str, slice]:
        """Columns of each modality in the concatenated frame."""
        columns, start = {}, 0
        for modality in self.modalities:
            columns[modality.name] = slice(start, start + modality.size)
            start += modality.size
        return columns


@dataclass(frozen=True)
class Vocabulary:
    """Display names of the classes; `names[c]` belongs to label c."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_csv(cls, path: str | Path) -> "Vocabulary":
        """Reads label_names.csv or vocabulary.csv (YouTube-8M) or class_labels_indices.csv (AudioSet).

        Rows are joined on the index column: their order means nothing.

        Raises:
            DataError: the file is missing or its header unknown, a row has more or fewer columns than the header, a
                quote is not closed, or an index is missing, double or no number.
        """
        path = Path(path)
        names: dict[int, str] = {}
        rows = _rows(path)
        _, header, _ = next(rows, (1, [], ""))
        index_column, name_column = _columns(path, header)
        for line, row, text in rows:
            if len(row) > len(header) == name_column + 1 and '"' not in text:
                # YouTube-8M's own label_names.csv has names with commas and no quotes: `271,Nike, Inc.`
                row[name_column:] = [",".join(row[name_column:])]
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {line}: has {len(row)} columns, but the header has {len(header)}; "
                    'put a value that has a comma in quotes, right after the comma before it: ,"a, b",'
                )
            index, name = _index(path, line, row[index_column]), row[name_column]
            if index in names:
                raise DataError(f"{path}, line {line}: index {index} occurs twice; remove one row")
            if "\n" in name or "\r" in name:
                raise DataError(f"{path}, line {line}: the name does not end on this line; close its quote")
            names[index] = name
        missing = next((index for index in range(len(names)) if index not in names), None)
        if missing is not None:
            raise DataError(f"{path}: no line has index {missing} though indices go up to {max(names)}; add its row")
        if not names:
            raise DataError(f"{path}, line 2: no classes below the header; add a row for each class")
        return cls(tuple(names[index] for index in range(len(names))))


def read_classes(path: str | Path, classes: int) -> list[int]:
    """Some classes of a vocabulary, rising: the column `Index` (or `index`, `label_id`) of a CSV file.

    Raises:
        DataError: the file is missing, has no such column, or has a class twice or one outside the vocabulary.
    """
    path = Path(path)
    rows = _rows(path)
    _, header, _ = next(rows, (1, [], ""))
    column = next((header.index(name) for name, _ in _VOCABULARY_COLUMNS if name in header), None)
    if column is None:
        known = " or ".join(name for name, _ in _VOCABULARY_COLUMNS)
        raise DataError(f"{path}, line 1: header {','.join(header)[:80]!r} is unknown; name the column {known}")
    found: set[int] = set()
    for line, row, _ in rows:
        index = _index(path, line, row[column] if column < len(row) else "")
        if index >= classes or index in found:
            what = "occurs twice" if index in found else f"is outside the vocabulary of {classes} classes"
            raise DataError(f"{path}, line {line}: index {index} {what}; correct the row")
        found.add(index)
    if not found:
        raise DataError(f"{path}, line 2: no classes below the header; add a row for each class")
    return sorted(found)


def _rows(path: Path) -> Iterator[tuple[int, list[str], str]]:
    """The rows of a CSV file but empty ones: the number of the first line, the columns, the text of the last line."""
    line, text = 1, ""

    def lines(file: Iterable[str]) -> Iterator[str]:
        nonlocal text
        for text in file:  # noqa: UP028 - kept for the row that ends with it
            yield text

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(lines(file), strict=True)
            for row in reader:
                if row:
                    yield line, row, text
                line = reader.line_num + 1
    except csv.Error as error:
        # A quote that is not closed goes on to the next quote, or to the end of the file.
        raise DataError(
            f"{path}, line {line}: cannot be read ({error}); close its quotes, and double those inside a quoted value"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a vocabulary ({error}); give a CSV file in UTF-8") from error


def _columns(path: Path, header: Sequence[str]) -> tuple[int, int]:
    """Where the header has the index and the name."""
    for index, name in _VOCABULARY_COLUMNS:
        if index in header and name in header:
            for column in (index, name):
                if header.count(column) > 1:
                    raise DataError(f"{path}, line 1: has two columns {column}; remove one")
            return header.index(index), header.index(name)
    known = " or ".join(",".join(columns) for columns in _VOCABULARY_COLUMNS)
    raise DataError(f"{path}, line 1: header {','.join(header)[:80]!r} is unknown; name the columns {known}")


def _index(path: Path, line: int, text: str) -> int:
    try:
        index = int(text)
    except ValueError:
        index = -1
    if index < 0:
        raise DataError(f"{path}, line {line}: index {text!r} is no whole number from 0 up; correct the row")
    return index


@dataclass
class Video:
    """One video as it is stored.

    Attributes:
        id: the record's `id` or `video_id`.
        frames: modality name -> `[T, D]` uint8, or `[1, D]` float32 at video level.
        labels: `[L]` int64, rising and without repetition; empty where a video is not labelled.
        segments: parts of it in which people rated labels; none by default.
    """

    id: str
    frames: dict[str, np.ndarray]
    labels: np.ndarray
    segments: RatedSegments = NO_SEGMENTS

    @property
    def num_frames(self) -> int:
        return len(next(iter(self.frames.values())))
