"""Rated segments: people looked at a few seconds of a video and said whether a label holds there.

A record's context keeps them in four lists, one value per rating:

    segment_start_times, segment_end_times   int64, seconds
    segment_labels                           int64, classes
    segment_scores                           float32: 1 if the label holds, 0 if not

A label that is not rated in a segment may hold there or not: nobody has looked. Segments that start together are one,
so they end together.

Source: YouTube-8M 2019, https://research.google.com/youtube8m/download.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vidfit.errors import DataError
from vidfit.features.tfrecord import CorruptRecordError

KEYS: Final = ("segment_start_times", "segment_end_times", "segment_labels", "segment_scores")
SEGMENT_SECONDS: Final = 5
"""Length of a segment of YouTube-8M 2019. They start at 0, 5, 10, ... of a video."""
Intervals = Sequence[tuple[float, float]]
"""Start and end in seconds, in any order; they may overlap."""
_STARTS, _ENDS, _LABELS, _SCORES = KEYS
_KINDS: Final = {_STARTS: "int64_list", _ENDS: "int64_list", _LABELS: "int64_list", _SCORES: "float_list"}


@dataclass(frozen=True, eq=False)
class RatedSegments:
    """The ratings of one video, S of them. A segment has one per label that was rated.

    Attributes:
        starts, ends: seconds, `[S]` int64.
        labels: classes, `[S]` int64.
        scores: `[S]` float32 from 0 to 1. Above 0 means that the label holds.
    """

    starts: np.ndarray
    ends: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of each segment, `[N]` int64, in order."""
        starts_N, first_N = np.unique(self.starts, return_index=True)
        return starts_N, self.ends[first_N]

    def holds(self, classes: int) -> np.ndarray:
        """Whether each label holds in each segment, float32 `[N, C]`: 1 or 0 where it was rated, NaN elsewhere.

        Of several ratings of a label the last counts.
        """
        starts_N, place_S = np.unique(self.starts, return_inverse=True)
        holds_NC = np.full((len(starts_N), classes), np.nan, np.float32)
        holds_NC[place_S, self.labels] = self.scores > 0
        return holds_NC


_NONE: Final = np.empty(0, np.int64)
NO_SEGMENTS: Final = RatedSegments(_NONE, _NONE, _NONE, np.empty(0, np.float32))


def parse_segments(context: Any, video: str) -> RatedSegments:
    """The rated segments in a record's context, a map from names to features. A record without them has none.

    Arguments:
        video: its id, for messages.

    Raises:
        CorruptRecordError: the four fields do not fit together.
    """
    if not any(key in context for key in KEYS):
        return NO_SEGMENTS
    values: dict[str, Any] = {}
    for key, kind in _KINDS.items():
        if context[key].WhichOneof("kind") not in (kind, None):
            what = "floats" if kind == "float_list" else "int64"
            raise CorruptRecordError(f"video {video!r}: {key!r} is no list of {what}; write it as one")
        values[key] = getattr(context[key], kind).value
    starts, ends, labels = (np.array(values[key], np.int64) for key in KEYS[:3])
    segments = RatedSegments(starts, ends, labels, np.array(values[_SCORES], np.float32))
    if problem := misfit(segments):
        raise CorruptRecordError(f"video {video!r}: {problem}; write it again or use --skip-corrupt")
    return segments if len(segments) else NO_SEGMENTS


def write_segments(context: Any, segments: RatedSegments) -> None:
    """Add the four fields to a record's context, if there are segments."""
    if not len(segments):
        return
    columns = (segments.starts, segments.ends, segments.labels, segments.scores)
    for (key, kind), values in zip(_KINDS.items(), columns, strict=True):
        getattr(context[key], kind).value.extend(values.tolist())


def misfit(segments: RatedSegments) -> str:
    """What is wrong with some segments; empty if nothing is."""
    lengths = {
        _STARTS: len(segments.starts), _ENDS: len(segments.ends),
        _LABELS: len(segments.labels), _SCORES: len(segments.scores),
    }  # fmt: skip
    if len(set(lengths.values())) > 1:
        return "its lists of segments differ in length (" + ", ".join(f"{k!r}: {n}" for k, n in lengths.items()) + ")"
    ends: dict[int, int] = {}
    for start, end in zip(segments.starts.tolist(), segments.ends.tolist(), strict=True):
        if not 0 <= start < end:
            return f"a segment starts at {start} s ({_STARTS!r}) and ends at {end} s ({_ENDS!r})"
        if (other := ends.setdefault(start, end)) != end:
            return f"two segments start at {start} s, and one ends at {other} s, the other at {end} s ({_ENDS!r})"
    if len(segments) and segments.labels.min() < 0:
        return f"{_LABELS!r} has {segments.labels.min()}, and classes are numbered from 0"
    if not ((segments.scores >= 0) & (segments.scores <= 1)).all():
        return f"{_SCORES!r} has values that are not from 0 to 1"
    return ""


def check_segment_labels(segments: RatedSegments, classes: int | None, video: str) -> None:
    """Raises DataError where a rated label is outside the vocabulary; None does not check them."""
    if classes is not None and len(segments) and (highest := segments.labels.max()) >= classes:
        raise DataError(
            f"video {video!r}: {_LABELS!r} has {highest}, outside the vocabulary of {classes} classes; "
            "give the vocabulary that belongs to these shards"
        )


def check_row(id: str, labelled: bool, intervals: Mapping[str, object], table: object) -> None:
    """A video with labels has a row in a table of intervals.

    Raises:
        DataError: it has none.
    """
    if labelled and id not in intervals:
        raise DataError(
            f"{table}: has no row for video {id!r}, which has labels in the shards; add its rows "
            f"(its paths, such as {next(iter(intervals))!r}, must be ids of videos)"
        )


def held_by_intervals(intervals: Intervals, segments: int, seconds: int) -> np.ndarray:
    """Whether an interval contains the middle of each of a video's first segments, bool `[S]`."""
    middles_S = (np.arange(segments) + 0.5) * seconds
    held_S = np.zeros(segments, bool)
    for start, end in intervals:
        held_S |= (start <= middles_S) & (middles_S < end)
    return held_S


def rated_by_intervals(
    true: Mapping[int, Intervals], segments: int, classes: int, seconds: int = SEGMENT_SECONDS
) -> RatedSegments:
    """Ratings of all labels in a video's first segments: a label holds if an interval contains the segment's middle.

    Arguments:
        true: intervals by class. A class that never holds may be missing.
        segments, classes: how many, S and C.
        seconds: length of a segment.
    """
    scores_SC = np.zeros((segments, classes), np.float32)
    for label, intervals in true.items():
        scores_SC[:, label] = held_by_intervals(intervals, segments, seconds)
    starts = np.repeat(np.arange(segments) * seconds, classes)
    return RatedSegments(starts, starts + seconds, np.tile(np.arange(classes), segments), scores_SC.ravel())
