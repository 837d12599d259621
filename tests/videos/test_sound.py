"""Log-mel spectrograms against their definition in float64."""

import numpy as np

from vidfit.videos.sound import log_mel


def reference(samples: np.ndarray, offset: float) -> np.ndarray:
    """float64 `[T, 64]`, band by band as AudioSet's `mel_features.py` defines it."""
    frames = [samples[start : start + 400] for start in range(0, len(samples) - 399, 160)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi / 400 * np.arange(400))
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    bins = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)
    rows = []
    for frame in frames:
        magnitude = np.abs(np.fft.rfft(np.asarray(frame, np.float64) * window, 512))
        row = []
        for lower, centre, upper in zip(edges, edges[1:], edges[2:], strict=False):
            weight = np.maximum(0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
            weight[0] = 0
            row.append(np.log(weight @ magnitude + offset))
        rows.append(row)
    return np.array(rows)


def test_the_spectrogram_follows_its_definition():
    samples = np.random.default_rng(0).normal(0, 0.1, (2, 15600)).astype(np.float32)
    found = log_mel(samples, 0.001)
    assert found.shape == (2, 96, 64)
    np.testing.assert_allclose(found[1], reference(samples[1], 0.001), atol=1e-4)


def test_a_tone_is_loudest_in_its_band():
    time = np.arange(15600) / 16000
    found = log_mel(np.sin(2 * np.pi * 1000 * time).astype(np.float32)[None], 0.01)[0].mean(0)
    edges = 700 * np.expm1(np.linspace(np.log1p(125 / 700), np.log1p(7500 / 700), 66))
    band = int(found.argmax())
    assert edges[band] <= 1000 <= edges[band + 2]
