"""A rated segment as a video of its own: its frames and some around them, and the labels that hold in it.

So training, sampling and validation work on rated segments as on videos. The one difference: labels that nobody rated
have weight 0 (`Batch.ratings`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vidfit.features.segments import SEGMENT_SECONDS, Intervals, RatedSegments, check_row, rated_by_intervals
from vidfit.features.spec import Video
from vidfit.features.tfrecord import CorruptRecordError


@dataclass(frozen=True)
class Clips:
    """Cuts videos into their rated segments.

    Attributes:
        context: seconds of a video before and after a segment that its clip has too.
        rate: frames per second.
        classes: size of the vocabulary.
        intervals: video id -> class -> when it holds. Then all labels are rated in all segments. None takes the
            ratings in the shards.
        seconds: length of the segments that are rated by intervals.
        table: where the intervals are from, for messages.
    """

    context: float
    rate: float
    classes: int
    intervals: Mapping[str, Mapping[int, Intervals]] | None = None
    seconds: int = SEGMENT_SECONDS
    table: str = ""

    def of(self, video: Video) -> Iterator[Video]:
        """The clips of a video, in the order of their segments; none without ratings. Frames are views.

        Raises:
            CorruptRecordError: a segment begins after the video's end.
            DataError: a video with labels has no row in the table.
        """
        rated = self._rated(video)
        ends = dict(zip(rated.starts.tolist(), rated.ends.tolist(), strict=True))
        for start, end in sorted(ends.items()):
            if start * self.rate >= video.num_frames:
                raise CorruptRecordError(
                    f"video {video.id!r}: a rated segment starts at {start} s, and its {video.num_frames} frames end "
                    f"at {video.num_frames / self.rate:g} s; correct the segment or use --skip-corrupt"
                )
            own = rated.starts == start
            segments = RatedSegments(rated.starts[own], rated.ends[own], rated.labels[own], rated.scores[own])
            first = max(0, math.floor((start - self.context) * self.rate))
            part = slice(first, math.ceil((end + self.context) * self.rate))
            frames = {name: frames_TD[part] for name, frames_TD in video.frames.items()}
            yield Video(video.id, frames, np.flatnonzero(segments.holds(self.classes) == 1), segments)

    def _rated(self, video: Video) -> RatedSegments:
        if self.intervals is None:
            return video.segments
        check_row(video.id, len(video.labels) > 0, self.intervals, self.table)
        segments = math.ceil(video.num_frames / (self.seconds * self.rate))
        return rated_by_intervals(self.intervals.get(video.id, {}), segments, self.classes, self.seconds)
