"""Sound as windows of 16 kHz mono, and their log-mel spectrograms."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

SAMPLE_RATE = 16000
# Timestamps of neighbouring frames may disagree by rounding; beyond this, sound is missing or doubled. Samples.
_SLACK = SAMPLE_RATE // 10


class SoundWindows:
    """Turns decoded sound into one window per step; gaps in the track are silence.

    Arguments:
        rate: steps per second.
        window: samples of a window.
    """

    def __init__(self, rate: float, window: int) -> None:
        self._rate, self._window = rate, window
        self._step = 0
        self._resampler: Any = None
        self._kind = (0, "", 0)
        self._waiting: Any = None
        # Where the track began, without a gap, and samples given to and taken from the resampler since.
        self._place = self._given = self._taken = 0
        # Samples from `_start` on that a window still needs, and whether the track has them or they fill a gap.
        self._start = 0
        self._samples = np.zeros(0, np.float32)
        self._real = np.zeros(0, bool)

    def push(self, frame: Any, start: float) -> Iterator[tuple[int, np.ndarray]]:
        """One more frame of sound, `start` seconds from time 0; yields the windows that are complete."""
        place = round(start * SAMPLE_RATE)
        kind = frame.sample_rate, frame.format.name, frame.layout.nb_channels
        if kind != self._kind or abs(place - self._expected) > _SLACK:
            yield from self._flush()
            self._begin(kind, place)
        self._given += frame.samples
        # Codecs give frames of 20 ms. Converting them one by one takes longer than decoding them.
        frame.pts = None  # The queue would check it.
        self._waiting.write(frame)
        if 2 * self._waiting.samples >= frame.sample_rate:
            yield from self._add(self._resampled(self._waiting.read()))

    def finish(self, steps: int) -> Iterator[tuple[int, np.ndarray]]:
        """The windows that are left of a video of so many steps, the last ones filled with silence."""
        yield from self._flush()
        while self._step < steps:
            yield from self._silence(self._first(self._step) + self._window - self._end)

    @property
    def _end(self) -> int:
        return self._start + len(self._samples)

    @property
    def _expected(self) -> int:
        """Where the next frame should lie."""
        return self._place + round(self._given * SAMPLE_RATE / max(self._kind[0], 1))

    def _first(self, step: int) -> int:
        return round(step * SAMPLE_RATE / self._rate)

    def _begin(self, kind: tuple[int, str, int], place: int) -> None:
        from av import AudioFifo, AudioResampler

        self._waiting = AudioFifo()
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        self._kind, self._place, self._given, self._taken = kind, place, 0, 0

    def _resampled(self, frame: Any) -> np.ndarray:
        """16 kHz mono of a frame; of None, what the resampler still holds."""
        from av import AudioFrame

        mono = None
        if frame is not None:
            mono = AudioFrame.from_ndarray(_mono(frame)[None], format="flt", layout="mono")
            mono.sample_rate = self._kind[0]
        parts = [part.to_ndarray()[0] for part in self._resampler.resample(mono)]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _flush(self) -> Iterator[tuple[int, np.ndarray]]:
        if self._resampler is not None:
            if self._waiting.samples:
                yield from self._add(self._resampled(self._waiting.read()))
            yield from self._add(self._resampled(None))
            self._resampler = None

    def _add(self, samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        place = self._place + self._taken
        self._taken += len(samples)
        yield from self._silence(place - self._end)
        yield from self._append(samples[max(0, self._end - place) :], True)

    def _silence(self, samples: int) -> Iterator[tuple[int, np.ndarray]]:
        # In small pieces: a gap may last an hour.
        for done in range(0, samples, SAMPLE_RATE):
            yield from self._append(np.zeros(min(SAMPLE_RATE, samples - done), np.float32), False)

    def _append(self, samples: np.ndarray, real: bool) -> Iterator[tuple[int, np.ndarray]]:
        self._samples = np.concatenate([self._samples, samples])
        self._real = np.concatenate([self._real, np.full(len(samples), real)])
        while (first := self._first(self._step)) + self._window <= self._end:
            skipped = min(max(first - self._start, 0), len(self._samples))
            self._samples, self._real = self._samples[skipped:], self._real[skipped:]
            self._start += skipped
            if 2 * np.count_nonzero(self._real[: self._window]) >= self._window:
                yield self._step, self._samples[: self._window].copy()
            self._step += 1


def _mono(frame: Any) -> np.ndarray:
    """float32 `[samples]` in [-1, 1]: the mean of the channels, as YAMNet and VGGish take it."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    scale = 1.0
    if samples.dtype == np.uint8:
        samples, scale = samples - np.float32(128), 1 / 128
    elif samples.dtype.kind == "i":
        scale = 1 / -float(np.iinfo(samples.dtype).min)
    return samples.mean(axis=0, dtype=np.float32) * np.float32(scale)


def log_mel(samples: np.ndarray, offset: float) -> np.ndarray:
    """Log-mel spectrograms as YAMNet and VGGish take them.

    Arguments:
        samples: float32 `[B, N]`, mono at 16 kHz.
        offset: added before the logarithm (0.001 in YAMNet, 0.01 in VGGish).

    Returns:
        float32 `[B, T, 64]`, T = `1 + (N - 400) // 160`: windows of 25 ms every 10 ms, 64 bands from 125 to 7,500 Hz.

    Source: `mel_features.py` of AudioSet's VGGish, magnitudes of a 512-point FFT under a periodic Hann window.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400, axis=-1)[:, ::160]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(frames * window, 512))
    return np.log(magnitudes.astype(np.float32) @ _mel_matrix() + np.float32(offset))


@cache
def _mel_matrix() -> np.ndarray:
    """float32 `[257, 64]`: triangles that are straight on the mel scale of HTK."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hertz) / 700)

    bins = mel(np.linspace(0, SAMPLE_RATE / 2, 257))[:, None]
    edges = np.linspace(mel(125), mel(7500), 66)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    weights[0] = 0
    return weights.astype(np.float32)
