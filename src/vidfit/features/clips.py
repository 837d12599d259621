"""A rated segment as a video of its own: its frames and some around them, and the labels that hold in it.

So training, sampling and validation work on rated segments as on videos. The one difference: labels that nobody rated
have weight 0 (`Batch.ratings`).

An encoder that knows the whole video takes it whole (`context` is None), and its frames are cut behind it (`parts_of`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from vidfit.features.batch import Batch
from vidfit.features.segments import (
    SEGMENT_SECONDS,
    Intervals,
    RatedSegments,
    check_row,
    held_by_intervals,
    rated_by_intervals,
)
from vidfit.features.spec import Video
from vidfit.features.tfrecord import CorruptRecordError

# In frames. 20 s at 0.35 frames a second are 7 frames, but floats may give a little more or less.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Clips:
    """Cuts videos into their rated segments.

    Attributes:
        context: seconds of a video before and after a segment that its clip has too. None leaves videos whole, each
            with the ratings of all its segments.
        rate: frames per second.
        classes: size of the vocabulary.
        intervals: video id -> class -> when it holds. Then all labels are rated in all segments. None takes the
            ratings in the shards.
        seconds: length of the segments that are rated by intervals.
        table: where the intervals are from, for messages.
    """

    context: float | None
    rate: float
    classes: int
    intervals: Mapping[str, Mapping[int, Intervals]] | None = None
    seconds: int = SEGMENT_SECONDS
    table: str = ""

    @property
    def whole(self) -> bool:
        """Whether videos stay whole."""
        return self.context is None

    @property
    def one_each(self) -> bool:
        """Whether each video gives exactly one clip: a table rates something in each."""
        return self.whole and self.intervals is not None

    def hold_all_labels(self, video: Video) -> bool:
        """Whether each of a video's labels holds in one of its segments by the table."""
        assert self.intervals is not None
        true, segments = self.intervals.get(video.id, {}), self._segments(video)
        found = [true.get(label, ()) for label in video.labels.tolist()]
        return all(held_by_intervals(intervals, segments, self.seconds).any() for intervals in found)

    def of(self, video: Video) -> Iterator[Video]:
        """The clips of a video, in the order of their segments; none without ratings. Frames are views.

        Raises:
            CorruptRecordError: a segment begins after the video's end.
            DataError: a video with labels has no row in the table.
        """
        rated = self._rated(video)
        for start, end in zip(*(column.tolist() for column in rated.spans()), strict=True):
            if self._first_frame(start) >= video.num_frames:
                raise CorruptRecordError(
                    f"video {video.id!r}: a rated segment starts at {start} s, and its {video.num_frames} frames end "
                    f"at {video.num_frames / self.rate:g} s; correct the segment or use --skip-corrupt"
                )
            if self.context is None:
                continue
            own = rated.starts == start
            segments = RatedSegments(rated.starts[own], rated.ends[own], rated.labels[own], rated.scores[own])
            part = slice(max(0, self._first_frame(start - self.context)), self._stop_frame(end + self.context))
            frames = {name: frames_TD[part] for name, frames_TD in video.frames.items()}
            yield Video(video.id, frames, np.flatnonzero(segments.holds(self.classes)[0] == 1), segments)
        if self.whole and len(rated):
            yield replace(video, segments=rated)

    def parts_of(self, batch: Batch) -> Tensor:
        """The segments of whole videos for `VideoClassifier`, int64 `[N, 3]`, in the order of `Batch.ratings`."""
        parts = [np.empty((0, 3), np.int64)]
        for place, (segments, length) in enumerate(zip(batch.segments, batch.num_frames.tolist(), strict=True)):
            starts_N, ends_N = segments.spans()
            first_N, stop_N = self._first_frame(starts_N), self._stop_frame(ends_N).clip(max=length)
            parts.append(np.stack([np.full_like(first_N, place), first_N, stop_N], axis=1))
        return torch.from_numpy(np.concatenate(parts))

    def _rated(self, video: Video) -> RatedSegments:
        if self.intervals is None:
            return video.segments
        check_row(video.id, len(video.labels) > 0, self.intervals, self.table)
        true = self.intervals.get(video.id, {})
        return rated_by_intervals(true, self._segments(video), self.classes, self.seconds)

    def _segments(self, video: Video) -> int:
        """How many segments begin in a video, where a table rates them."""
        starts = np.arange(int(video.num_frames / (self.seconds * self.rate)) + 2) * self.seconds
        return int(np.count_nonzero(self._first_frame(starts) < video.num_frames))

    def _first_frame(self, seconds: float | np.ndarray) -> np.ndarray:
        return np.floor(np.asarray(seconds) * self.rate + _ROUNDING).astype(np.int64)

    def _stop_frame(self, seconds: float | np.ndarray) -> np.ndarray:
        return np.ceil(np.asarray(seconds) * self.rate - _ROUNDING).astype(np.int64)
