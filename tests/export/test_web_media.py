"""Pictures and sound of the web page, against Python's decoder: its modules under Node."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.web_node import Node, needs_node

pytest.importorskip("av")
from tests.videos.making import RED, av, frames_at, plain, tone, write
from vidfit.videos.decode import Reading, Sampling, read_steps
from vidfit.videos.picture import to_pixels

pytestmark = needs_node

BT709, UNSPECIFIED = 1, 2
LIMITED, FULL = 1, 2

# A frame of WebCodecs, as the page uses one.
FRAME = """({
    format: it.format, rotation: 0, visibleRect: { width: it.width, height: it.height }, colorSpace: it.colours,
    allocationSize: () => it.samples.length, copyTo: async (to) => (to.set(it.samples), it.layout), close() {},
})"""


@pytest.mark.parametrize(
    ("width", "height", "format", "colours"),
    [
        (16, 16, "I420", {}),
        (40, 31, "NV12", {"matrix": "bt709"}),
        (9, 300, "I420", {"fullRange": True}),
        (34, 720, "NV12", {"matrix": None}),
    ],
)
def test_planes_become_the_pixels_of_python(
    node: Node, width: int, height: int, format: str, colours: dict, random: np.random.Generator
):
    picture = random.integers(0, 256, (height, width, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p")
    frame.colorspace = BT709 if colours.get("matrix") else UNSPECIFIED
    frame.color_range = FULL if colours.get("fullRange") else LIMITED
    luma, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width] for plane in frame.planes
    )
    both = [np.stack([blue, red], axis=-1).reshape(len(blue), -1)] if format == "NV12" else [blue, red]
    given: dict[str, Any] = {"format": format, "width": width, "height": height, "layout": []}
    samples = b""
    for plane in [luma, *both]:
        given["layout"].append({"offset": len(samples), "stride": plane.shape[1]})
        samples += plane.tobytes()
    given |= {"colours": {"fullRange": False, **colours}, "samples": list(samples)}
    found = np.reshape(node("pixels.js", f"page.squareOf({FRAME}, 32, 0)", **given), (32, 32, 3))
    difference = np.abs(found - to_pixels(frame, 32).astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_sound_is_resampled_as_python_resamples_it(node: Node, rate: int, tmp_path: Path, random: np.random.Generator):
    samples = random.normal(0, 0.2, (1, 2 * rate)).astype(np.float32).clip(-1, 1)
    path = write(tmp_path / "noise.wav", samples=samples, sound_rate=rate, sound_codec="pcm_f32le")
    sampling = Sampling(picture_size=0, sound_window=16000)
    expected = np.concatenate([sound[1] for sound in read_steps(path, sampling, Reading())])
    call = "page.resampled(Float32Array.from(it.samples), it.rate)"
    found = node("sound.js", call, samples=samples[0].tolist(), rate=rate)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def content_of(path: Path) -> list[int]:
    return list(path.read_bytes())


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.wav", "pcm_s16le")])
def test_the_sample_rate_of_a_file_is_found(node: Node, name: str, codec: str, rate: int, tmp_path: Path):
    pictures: dict[str, Any] = {"show": lambda time: plain(RED), "times": frames_at(12, 1)} if name == "a.mp4" else {}
    path = write(tmp_path / name, samples=tone(440, 1, rate), sound_rate=rate, sound_codec=codec, **pictures)
    assert node("container.js", "page.soundRate(Uint8Array.from(it.content))", content=content_of(path)) == rate


@pytest.mark.parametrize(
    ("name", "codec", "shift"),
    [
        ("a.mp4", "libx264", 0.25),
        ("a.mkv", "libx264", 0.25),
        ("a.mp4", "libx265", 0.25),
        ("a.mp4", "libvpx-vp9", 0),
        ("a.webm", "libvpx", 0),
    ],
)
def test_the_place_of_colours_is_that_of_the_codec(node: Node, name: str, codec: str, shift: float, tmp_path: Path):
    path = write(tmp_path / name, lambda time: plain(RED), frames_at(12, 1), codec=codec)
    assert node("container.js", "page.chromaShift(Uint8Array.from(it.content))", content=content_of(path)) == shift


@pytest.mark.parametrize(("name", "lost"), [("a.webm", 24), ("a.ogg", 0), ("a.mp4", 0)])
def test_sound_that_chromium_drops_is_counted(node: Node, name: str, lost: int, tmp_path: Path):
    path = write(tmp_path / name, samples=tone(440, 1, 48000), sound_rate=48000, sound_codec="libopus")
    found = node("container.js", "page.lostSound(Uint8Array.from(it.content))", content=content_of(path))
    assert round(found * 48000) == lost
