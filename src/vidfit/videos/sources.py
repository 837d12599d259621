"""What a user names as videos: files, folders, globs, and tables with labels.

A table is a CSV or JSONL file. Paths in it count from its own folder. A CSV file may have `;` or tabs for commas.

    path,labels                 several labels with `;` between them
    path,label,start,end        one row per interval, in seconds
    (JSONL) path, labels        and, if wanted, segments: [{"label", "start", "end"}]
    Vertex AI's import files    CSV without header (ML_USE,path,label,start,end) and JSONL; of `gs://` paths the end

In a folder, content decides what is a video. Where all its videos lie in subfolders, these name their labels.
Subfolders that are all named after splits, such as `train` and `val`, name splits; the folders in them name labels.
"""

import csv
import glob
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vidfit.errors import DataError
from vidfit.files import matches
from vidfit.videos.decode import is_video

log = logging.getLogger(__name__)

# Endings that say that somebody takes a file for a video: if it cannot be read, that is told.
_ENDINGS: Final = {
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".ts", ".vob", ".webm", ".wmv", ".aac", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma",
}  # fmt: skip
IntervalsByVideo = dict[str, dict[int, list[tuple[float, float]]]]
"""Video id -> class -> (start, end) in seconds."""
_ML_USE: Final = {"training": "train", "train": "train", "validation": "validation", "test": "eval"}
_COLUMNS: Final = {"path", "label", "labels", "start", "end", "segments", "split", "ml_use"}
_SPLIT_FOLDERS: Final = _ML_USE | {"val": "validation", "valid": "validation", "eval": "eval"}


@dataclass(frozen=True)
class Interval:
    """A label that holds from `start` to `end`, in seconds."""

    label: str
    start: float
    end: float


@dataclass
class Source:
    """A video to extract.

    Attributes:
        id: its path from the folder or the table's folder that named it, with `/`. Bytes that are not UTF-8 become
            `\\udcXX`, as in the tables.
        path: the file.
        labels: names of what holds in it.
        intervals: when, where that is known.
        split: `train`, `validation` or `eval` where a table says so.
    """

    id: str
    path: Path
    labels: set[str] = field(default_factory=set)
    intervals: list[Interval] = field(default_factory=list)
    split: str | None = None


def find_sources(names: Sequence[str | Path], labels_count: bool = True) -> list[Source]:
    """The videos that some files, folders, globs and tables name, sorted by id.

    A video that several tables name has the labels and intervals of all.

    Arguments:
        names: what the user gave.
        labels_count: whether labels are wanted. Then a folder whose subfolders name none is told.

    Raises:
        DataError: a name matches nothing, a table is wrong, or two videos would have the same id.
    """
    found: dict[str, Source] = {}
    for name in names:
        for source in _found(os.path.expanduser(name), str(name), labels_count):
            known = found.setdefault(source.id, source)
            if known is source:
                continue
            if known.path.resolve() != source.path.resolve():
                raise DataError(
                    f"{source.path} and {known.path} would both be called {source.id}; name one folder above"
                )
            known.labels |= source.labels
            known.intervals += [interval for interval in source.intervals if interval not in known.intervals]
            known.split = known.split or source.split
    return [found[id] for id in sorted(found)]


def read_intervals(table: Path, vocabulary: Sequence[str]) -> IntervalsByVideo:
    """When labels hold, of each video that a table names; a video without labels has no intervals.

    Raises:
        DataError: the table is wrong, has no intervals, or names a label without an interval or an unknown one.
    """
    classes = {name: index for index, name in enumerate(vocabulary)}
    found: IntervalsByVideo = {}
    for source in find_sources([table]):
        if missing := source.labels - {interval.label for interval in source.intervals}:
            raise DataError(f"{table}: {source.id} has {min(missing)!r} without an interval; give its start and end")
        of_video = found.setdefault(source.id, {})
        for interval in source.intervals:
            if interval.label not in classes:
                raise DataError(
                    f"{table}: {source.id} has label {interval.label!r}, which is not in the vocabulary; "
                    "correct the label or remove its rows"
                )
            of_video.setdefault(classes[interval.label], []).append((interval.start, interval.end))
    if not any(found.values()):
        raise DataError(f"{table}: has no intervals; give a table with the header path,label,start,end")
    return found


def check_labelled(sources: Sequence[Source], names: Sequence[str | Path] = (), more: str = "") -> None:
    """Some video has labels. Warns of a table of labels that lies unread in a folder.

    Arguments:
        sources: what was found.
        names: what the user gave.
        more: what else the user can do.

    Raises:
        DataError: no video has labels.
    """
    folders = [folder for name in names if (folder := Path(os.path.expanduser(name))).is_dir()]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() in (".csv", ".tsv")]
    table = next(filter(_names_labels, files), None)
    advice = f"{table} looks like a table of labels: give that instead of the folder"
    if not any(source.labels for source in sources):
        others = f"give a table with `path,labels`, or a folder per label{more}"
        raise DataError(f"no video has labels; {advice if table else others}")
    if table:
        log.warning("labels are the names of folders, but %s", advice)


def _names_labels(table: Path) -> bool:
    try:
        with table.open(encoding="utf-8-sig") as file:
            line = file.readline()
    except (OSError, UnicodeDecodeError):
        return False
    names = set(_column_names(line.split(_delimiter(line, table))))
    return "path" in names and not names.isdisjoint({"label", "labels"})


def _found(place: str, name: str, labels_count: bool) -> Iterable[Source]:
    """The videos at a path, or of a glob. `name` is what the user calls it."""
    path = Path(place)
    if not place:
        raise DataError("a video has an empty name; give videos, a folder of them, a quoted glob or a table")
    if path.is_dir():
        found = list(_in_folder(path, labels_count))
        what = "holds no video"
    elif path.is_file() or _leads_nowhere(path):
        found, what = list(_of_file(path)), "has no rows"
    elif path.exists():
        raise DataError(f"{name}: is a pipe or a device, which cannot be read twice; save the video as a file")
    else:
        found = [source for match in matches(place) for source in _found(str(match), str(match), labels_count)]
        what = "matches no file" if glob.has_magic(place) else "does not exist"
    if not found:
        raise DataError(f"{name}: {what}; give videos, a folder of them, a quoted glob or a table")
    return found


def _in_folder(folder: Path, labels_count: bool) -> Iterator[Source]:
    videos = [path for path in sorted(folder.rglob("*")) if _is_wanted(path, folder)]
    folders = {path: PurePosixPath(_id(path.relative_to(folder))).parts[:-1] for path in videos}
    outside = [path for path in videos if not folders[path]]
    if labels_count and outside and len(outside) < len(videos):
        log.warning("%s lies beside folders, so their names are not taken for labels", outside[0])
    tops = {names[0].lower() for names in folders.values() if names}
    by_split = not outside and len(tops) > 1 and tops <= set(_SPLIT_FOLDERS)
    for path in videos:
        names, split = folders[path], None
        if by_split:
            split, names = _SPLIT_FOLDERS[names[0].lower()], names[1:]
        labels = set() if outside else set(names[:1])
        yield Source(_id(path.relative_to(folder)), path, labels, split=split)


def _is_wanted(path: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    if not path.is_file() and not _leads_nowhere(path):
        return False
    return path.suffix.lower() in _ENDINGS or is_video(path)


def _leads_nowhere(path: Path) -> bool:
    """Whether it is a link to nothing: a video that cannot be read, which is told."""
    return path.is_symlink() and not path.exists()


def _id(path: Path) -> str:
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _of_file(path: Path) -> Iterable[Source]:
    if path.suffix.lower() in (".csv", ".tsv"):
        return _of_csv(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _of_jsonl(path)
    return [Source(_id(Path(path.name)), path)]


def _of_csv(table: Path) -> list[Source]:
    found = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            delimiter = _delimiter(file.readline(), table)
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            first = next(rows, [])
            header = _header(table, first)
            if first and not header:
                found.append(_vertex_row(table, 1, first))
            for row in rows:
                if not row:
                    continue
                if not header:
                    found.append(_vertex_row(table, rows.line_num, row))
                elif len(row) != len(header):
                    raise _wrong(table, rows.line_num, f"has {len(row)} columns, the header {len(header)}")
                else:
                    found.append(_row(table, rows.line_num, dict(zip(header, row, strict=True))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}); give a CSV file in UTF-8") from error
    with_comma = next((label for source in found for label in source.labels if "," in label), None)
    if "labels" in header and with_comma and all(len(source.labels) < 2 for source in found):
        log.warning("%s: %r counts as one label; put `;` between several", table, with_comma)
    return found


def _delimiter(first_line: str, table: Path) -> str:
    """The one around `path` in the header. Spreadsheets write `;` where numbers have a decimal comma."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    return next((it for it in ",;\t" if "path" in _column_names(first_line.split(it))), ",")


def _column_names(cells: Sequence[str]) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in cells]


def _header(table: Path, row: list[str]) -> list[str]:
    """Column names, in lower case; empty for a row that names a video, as in Vertex AI's import files."""
    names = _column_names(row)
    if "path" in names:
        others = [name for name in names if name not in _COLUMNS]
        if others and not {"label", "labels"} & set(names):
            log.warning("%s: has no column `labels`, so its videos have none; it has %s", table, ", ".join(names))
        return names
    if row and not any(mark in cell for cell in row for mark in "./"):
        raise DataError(
            f"{table}, line 1: has no column `path`; found: {', '.join(names)}; begin with a header such as path,labels"
        )
    return []


def _row(table: Path, line: int, row: dict[str, Any]) -> Source:
    source = _source(table, line, row.get("path"))
    labels = row.get("labels", row.get("label")) or []
    names = [label.strip() for label in (labels.split(";") if isinstance(labels, str) else labels)]
    source.labels = {name for name in names if name}
    segments = row.get("segments") or []
    start, end = ("" if row.get(name) is None else row[name] for name in ("start", "end"))
    if start != "" or end != "":
        if not source.labels:
            raise _wrong(table, line, "has an interval without a label")
        segments = [*segments, *({"label": name, "start": start, "end": end} for name in sorted(source.labels))]
    for segment in segments:
        source.intervals.append(_interval(table, line, segment["label"], segment["start"], segment["end"]))
        source.labels.add(segment["label"])
    source.split = _split(table, line, row.get("split") or row.get("ml_use"))
    return source


def _vertex_row(table: Path, line: int, row: list[str]) -> Source:
    """`[ML_USE,]path,label[,start,end]`."""
    cells = [cell.strip() for cell in row]
    split = None
    if cells[0].lower() in (*_ML_USE, "unassigned", ""):
        split = _ML_USE.get(cells[0].lower())
        cells = cells[1:]
    if len(cells) not in (1, 2, 4):
        raise _wrong(table, line, "is not `path,label` or `path,label,start,end`; begin with a header `path,labels`")
    source = _source(table, line, cells[0])
    source.split = split
    if len(cells) > 1 and cells[1]:
        source.labels = {cells[1]}
        if len(cells) == 4 and (cells[2] or cells[3]):
            source.intervals = [_interval(table, line, cells[1], *cells[2:])]
    return source


def _of_jsonl(table: Path) -> Iterator[Source]:
    try:
        # Not `splitlines`: a label may hold U+2028, which JSON allows.
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}); give JSON lines in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield _vertex_object(table, number, row) if "videoGcsUri" in row else _row(table, number, row)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise _wrong(table, number, f"is no object with path and labels ({error!r})") from error


def _vertex_object(table: Path, line: int, row: dict[str, Any]) -> Source:
    source = _source(table, line, row["videoGcsUri"])
    for annotation in row.get("timeSegmentAnnotations") or []:
        source.labels.add(annotation["displayName"])
        if "endTime" in annotation:
            ends = (annotation.get("startTime", "0s"), annotation["endTime"])
            source.intervals.append(_interval(table, line, annotation["displayName"], *ends))
    resource = row.get("dataItemResourceLabels") or {}
    source.split = _split(table, line, resource.get("aiplatform.googleapis.com/ml_use"))
    return source


def _source(table: Path, line: int, name: Any) -> Source:
    if not isinstance(name, str) or not name:
        raise _wrong(table, line, "has no path")
    if not name.startswith("gs://"):
        # One that is missing is told when it is to be read, as other failures are.
        return Source(_id(Path(name)), table.parent / name)
    parts = name.removeprefix("gs://").split("/")[1:]
    for start in range(len(parts)):
        inside = "/".join(parts[start:])
        if (table.parent / inside).is_file():
            return Source(inside, table.parent / inside)
    raise _wrong(table, line, f"{name} lies in a bucket; copy the videos to the table's folder, {table.parent}")


def _interval(table: Path, line: int, label: str, start: Any, end: Any) -> Interval:
    try:
        first, last = (float(str(value).strip().removesuffix("s")) for value in (start, end))
    except ValueError:
        raise _wrong(table, line, f"start {start!r} and end {end!r} are no seconds") from None
    if not 0 <= first < last:
        raise _wrong(table, line, f"start {start} and end {end} are no interval")
    return Interval(label, first, last)


def _split(table: Path, line: int, name: Any) -> str | None:
    if not name or str(name).lower() == "unassigned":
        return None
    split = _ML_USE.get(str(name).lower(), str(name).lower())
    if split not in _ML_USE.values():
        raise _wrong(table, line, f"split {name!r} is none of train, validation, eval")
    return split


def _wrong(table: Path, line: int, what: str) -> DataError:
    return DataError(f"{table}, line {line}: {what}; correct the row")
