"""Pictures, sound and spectra are those of the reference vectors in docs/reference/reference-vectors.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from vidfit.videos.picture import to_pixels
from vidfit.videos.sound import SoundWindows, log_mel

av = pytest.importorskip("av")

VECTORS = json.loads((Path(__file__).parents[2] / "docs/reference/reference-vectors.json").read_text(encoding="utf-8"))


def test_a_frame_becomes_the_pixels_of_the_page():
    y, x = np.mgrid[0:48, 0:64]
    luma, (small_y, small_x) = 16 + 3 * x + 2 * (y % 8), np.mgrid[0:24, 0:32]
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane, values in zip(frame.planes, (luma, 90 + 3 * small_y, 170 - 2 * small_x), strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : values.shape[1]] = values
        plane.update(padded.tobytes())
    pixels = to_pixels(frame, VECTORS["picture"]["size"])
    for row, column, *colour in VECTORS["picture"]["row, column, red, green, blue"]:
        # Processors differ by rounding.
        assert np.abs(pixels[row, column].astype(int) - colour).max() <= 1


def test_sound_becomes_the_samples_of_the_page():
    vectors, time = VECTORS["resampling"], np.arange(44100) / 44100
    both = np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.3 * np.sin(2 * np.pi * 1000 * time)])
    frame = av.AudioFrame.from_ndarray(both.astype(np.float32), format="fltp", layout="stereo")
    frame.sample_rate = vectors["rate"]
    windows = SoundWindows(1.0, 15600)
    ((_, samples),) = [*windows.push(frame, 0.0), *windows.finish(1)]
    for place, value in vectors["sample, value"]:
        assert samples[place] == pytest.approx(value, abs=1e-4)


def test_a_window_has_the_log_mel_of_the_page():
    time, vectors = np.arange(15600) / 16000, VECTORS["log-mel"]
    window = 0.5 * np.sin(2 * np.pi * 440 * time) + 0.1 * np.sin(2 * np.pi * 3000 * time)
    bands = log_mel(window.astype(np.float32)[None], vectors["offset"])[0]
    for frame, band, value in vectors["frame, band, value"]:
        assert bands[frame, band] == pytest.approx(value, abs=0.002)


def test_windows_start_where_the_page_says():
    windows, starts = SoundWindows(3.0, 100), VECTORS["starts of windows at 3 steps per second"]
    ramp = av.AudioFrame.from_ndarray((np.arange(32000) / 32000).astype(np.float32)[None], format="fltp", layout="mono")
    ramp.sample_rate = 16000
    found = [samples[0] * 32000 for _, samples in [*windows.push(ramp, 0.0), *windows.finish(5)]]
    np.testing.assert_allclose(found[:5], starts, atol=0.5)
