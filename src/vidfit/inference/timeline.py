"""When a label holds: probabilities over time, and the intervals they say.

Probabilities of steps come from a model that decides per frame, or from windows: a video is cut into overlapping
stretches, each is classified as a video of its own, and a step has the mean of the windows that cover it.

Shapes: T steps of a video, W windows, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# An interval goes on while its probability is above this share of the threshold that began it.
_HYSTERESIS = 0.6


class Span(NamedTuple):
    """A label holds from `start` to `end`, in seconds; `confidence` is its mean probability there."""

    start: float
    end: float
    confidence: float


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
