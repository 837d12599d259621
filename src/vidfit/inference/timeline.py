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
# How long nothing changes, on average. On real clips, 3 seconds are at most 0.001 worse than a mean of neighbouring
# frames. 5 seconds are better for rare labels and worse for common ones (benchmarks/LOG.md).
_SECONDS: Final = 3.0
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
        # 0.03 more: 0.49 of at most 0.49 with video labels, 0.56 of 0.56 with segments, 0.36 of 0.37 by windows.
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
            return probabilities_C, from_frames(self.predictor.predict_frames(video)[0], probabilities_C, self.rate)
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


def from_frames(frames_TC: np.ndarray, video_C: np.ndarray, rate: float) -> np.ndarray:
    """float32 `[T, C]`: each step's probability, `sqrt(video * moment)`. So a label needs both.

    `moment` is what all frames say about the step together, by a Markov chain: every 3 seconds on average, it is
    drawn anew whether a label holds. It does with probability m, the mean of the video's frames. A frame says
    `odds / odds of m`, once per second at most, because frames close by err alike. So what lasts is believed, and a
    single frame counts for less.

    Arguments:
        frames_TC, video_C: probabilities of the frames and of the video.
        rate: steps per second.

    Source: forward-backward, Rabiner 1989, "A tutorial on hidden Markov models", section III.
    """
    likely_TC = np.clip(np.asarray(frames_TC, np.float64), _SURE, 1 - _SURE)
    mean_C, anew = likely_TC.mean(axis=0), -math.expm1(-1 / (_SECONDS * rate))
    ratios_TC = likely_TC / (1 - likely_TC) * (1 - mean_C) / mean_C
    evidence_TC = ratios_TC ** (1 / max(1.0, rate))

    # That the label holds in a step: by the frames before it, and by these and its own.
    before_TC, moment_TC = np.empty_like(evidence_TC), np.empty_like(evidence_TC)
    expected_C = mean_C
    for step, evidence_C in enumerate(evidence_TC):
        before_TC[step] = expected_C
        moment_TC[step] = expected_C * evidence_C / (expected_C * evidence_C + 1 - expected_C)
        expected_C = (1 - anew) * moment_TC[step] + anew * mean_C
    # And by all, from the last step back.
    for step in range(len(moment_TC) - 2, -1, -1):
        holds_C = moment_TC[step + 1] / before_TC[step + 1]
        not_C = (1 - moment_TC[step + 1]) / (1 - before_TC[step + 1])
        moment_TC[step] *= (1 - anew) * holds_C + anew * (mean_C * holds_C + (1 - mean_C) * not_C)
    return np.sqrt(video_C * moment_TC).astype(np.float32)


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
