"""What a corpus is made of: modalities (names, sizes, byte or float), class names, and one video as arrays.

Frame-level corpora hold bytes, video-level corpora (one pooled frame a video) hold floats; a spec is one or the other.
Bytes stay bytes in this folder: the models turn them into floats.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from vidfit.errors import DataError

# (index column, name column) of the known vocabularies: label_names.csv, YouTube-8M's vocabulary.csv, AudioSet's.
_VOCABULARY_COLUMNS = (("label_id", "label_name"), ("Index", "Name"), ("index", "display_name"))

# The packed file's inputs are the modalities and the first of these; its output is the second.
_TAKEN_NAMES = ("num_frames", "probabilities")


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
            DataError: the file is missing or its header unknown, or an index is missing, double or no number.
        """
        path = Path(path)
        names: dict[int, str] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                index_column, name_column = _columns(path, reader.fieldnames or ())
                for row in reader:
                    index = _index(path, reader.line_num, row[index_column])
                    if index in names:
                        raise DataError(f"{path}, line {reader.line_num}: index {index} occurs twice; remove one row")
                    names[index] = row[name_column] or ""
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: cannot be read as a vocabulary ({error}); give a CSV file in UTF-8") from error
        missing = next((index for index in range(len(names)) if index not in names), None)
        if missing is not None:
            raise DataError(f"{path}: no line has index {missing} though indices go up to {max(names)}; add its row")
        if not names:
            raise DataError(f"{path}, line 2: no classes below the header; add a row for each class")
        return cls(tuple(names[index] for index in range(len(names))))


def _columns(path: Path, header: Sequence[str]) -> tuple[str, str]:
    for columns in _VOCABULARY_COLUMNS:
        if set(columns) <= set(header):
            return columns
    known = " or ".join(",".join(columns) for columns in _VOCABULARY_COLUMNS)
    raise DataError(f"{path}, line 1: header {','.join(header)[:80]!r} is unknown; name the columns {known}")


def _index(path: Path, line: int, text: str | None) -> int:
    try:
        index = int(text or "")
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
    """

    id: str
    frames: dict[str, np.ndarray]
    labels: np.ndarray

    @property
    def num_frames(self) -> int:
        return len(next(iter(self.frames.values())))
