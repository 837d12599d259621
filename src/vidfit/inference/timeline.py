"""When a label holds: probabilities over time, and the intervals they give.

A model that decides per frame gives them directly (`from_frames`). Other models see windows. A video is cut into
overlapping stretches, and each is classified as a video of its own. A step then has the mean of the windows that cover
it.

Shapes: T steps of a video, W windows, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from vidfit.errors import VidfitError
from vidfit.evaluation.thresholds import DEFAULT
from vidfit.inference.predictor import Predictor

_WINDOW: Final = 5.0
_HOP: Final = 1.0
# Keeps logits finite.
_SURE: Final = 1e-6
# An interval goes on while its probability is above this share of the threshold that began it.
_HYSTERESIS = 0.6


class Span(NamedTuple):
    """A label holds from `start` to `end`, in seconds; `confidence` is its mean probability there."""

    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class TimelineOptions:
    """How a timeline is made.

    Attributes:
        window, hop: seconds of a window, and from one to the next. A hop is no longer than a window. If both are None,
            frame probabilities are used. A model without them gets windows of 5 seconds, one per second.
        threshold: probability at which a label holds. None means each label's own, from the packed file, or 0.5 if it
            has none.
    """

    window: float | None = None
    hop: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        window, hop = self.seconds
        if not (0 < hop <= window < math.inf):
            raise VidfitError(
                f"window {window:g}, hop {hop:g}: give seconds above 0, and a hop no longer than the window"
            )
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise VidfitError(f"threshold {self.threshold:g}: give a probability above 0, at most 1")

    @property
    def seconds(self) -> tuple[float, float]:
        """Window and hop, with the defaults filled in."""
        return _WINDOW if self.window is None else self.window, _HOP if self.hop is None else self.hop


class Timeline:
    """Probabilities over time, by a loaded model.

    Arguments:
        predictor: the model.
        rate: steps (frames) per second of its videos.
        options: windows and threshold.
    """

    def __init__(self, predictor: Predictor, rate: float, options: TimelineOptions) -> None:
        self.predictor, self.rate, self.options = predictor, rate, options
        # Steps have the thresholds of videos. On real clips, no factor on them made intervals overlap the true ones by
        # 0.03 more: 0.49 of at most 0.51 with video labels, 0.54 of 0.54 with rated segments, 0.36 of 0.37 by windows.
        own = predictor.thresholds if options.threshold is None else None
        common = options.threshold or DEFAULT
        self.threshold = common if own is None else "each label's own"
        """For people."""
        self.thresholds_C = np.full(len(predictor.vocabulary), common, np.float32) if own is None else own
        """float32."""
        self._by_frames = predictor.has_frame_probabilities and options.window is None and options.hop is None

    @property
    def method(self) -> str:
        """What the probabilities come from, for people."""
        if self._by_frames:
            return "frame probabilities"
        window, hop = self.options.seconds
        return f"windows of {window:g} s, one every {hop:g} s"

    def probabilities(self, frames: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of a video, float32 `[C]`, and of each of its steps, float32 `[T, C]`.

        Arguments:
            frames: by modality, `[T, D]` as the model reads them.
        """
        video = {name: array[None] for name, array in frames.items()}
        probabilities_C = self.predictor.predict(video)[0]
        if self._by_frames:
            return probabilities_C, from_frames(self.predictor.predict_frames(video)[0], probabilities_C)
        steps = len(next(iter(frames.values())))
        length, hop = (max(1, round(seconds * self.rate)) for seconds in self.options.seconds)
        stretches = windows(steps, length, hop)
        cut = {name: np.stack([array[stretch] for stretch in stretches]) for name, array in frames.items()}
        return probabilities_C, over_steps(self.predictor.predict(cut), stretches, steps)

    def spans(self, probabilities_TC: np.ndarray, duration: float) -> list[list[Span]]:
        """Intervals in which each label holds (see `spans`)."""
        return [
            spans(column_T, float(threshold), self.rate, duration)
            for column_T, threshold in zip(probabilities_TC.T, self.thresholds_C, strict=True)
        ]

    def intervals(self, probabilities_TC: np.ndarray) -> list[list[tuple[float, float]]]:
        """Start and end of each label's intervals, in a video that ends with its last step."""
        duration = len(probabilities_TC) / self.rate
        return [[(span.start, span.end) for span in found] for found in self.spans(probabilities_TC, duration)]


def from_frames(frames_TC: np.ndarray, video_C: np.ndarray) -> np.ndarray:
    """float32 `[T, C]`: each step's probability, `sqrt(video * sigmoid(z))`.

    `z` is the weighted mean of the logits of the step's frame (weight 4) and its neighbours (1 each). So a label needs
    both the moment and the video, and a single frame counts for less.

    Arguments:
        frames_TC, video_C: probabilities of the frames and of the video.
    """
    likely_TC = np.clip(np.asarray(frames_TC, np.float64), _SURE, 1 - _SURE)
    logits_TC = np.log(likely_TC / (1 - likely_TC))
    weights_T = np.full(len(logits_TC), 4.0)
    sums_TC = 4 * logits_TC
    for here, beside in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        sums_TC[here] += logits_TC[beside]
        weights_T[here] += 1
    return np.sqrt(video_C / (1 + np.exp(-sums_TC / weights_T[:, None]))).astype(np.float32)


def windows(steps: int, length: int, hop: int) -> list[slice]:
    """Stretches of `length` steps every `hop` steps, never padded: the last ends with the video.

    `hop` is at most `length`, so every step is in one. A video that is shorter than a window is one window.
    """
    if steps <= length:
        return [slice(0, steps)]
    starts = [*range(0, steps - length, hop), steps - length]
    return [slice(start, start + length) for start in starts]


def over_steps(probabilities_WC: np.ndarray, stretches: Sequence[slice], steps: int) -> np.ndarray:
    """float32 `[T, C]`: the mean of the windows that cover each step."""
    total_TC = np.zeros((steps, probabilities_WC.shape[1]), np.float64)
    count_T = np.zeros((steps, 1))
    for stretch, row_C in zip(stretches, probabilities_WC, strict=True):
        total_TC[stretch] += row_C
        count_T[stretch] += 1
    return (total_TC / count_T).astype(np.float32)


def spans(probabilities_T: np.ndarray, threshold: float, rate: float, duration: float) -> list[Span]:
    """Intervals in which a label holds.

    One begins where the probability reaches `threshold`, and reaches in both directions as far as it stays above 0.6 of
    that: so a short dip does not end it, and what is never sure does not begin one.

    Arguments:
        probabilities_T: of one label, step by step.
        threshold: from 0 to 1.
        rate: steps per second.
        duration: seconds of the video; the last interval ends there at most.
    """
    above = np.concatenate([[False], probabilities_T >= _HYSTERESIS * threshold, [False]])
    edges = np.flatnonzero(np.diff(above.astype(np.int8)))
    found = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        inside = probabilities_T[first:last]
        if inside.max() >= threshold:
            start, end = first / rate, last / rate
            end = duration if last == len(probabilities_T) else min(end, duration)
            found.append(Span(float(start), float(end), float(inside.mean())))
    return found
