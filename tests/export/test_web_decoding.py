"""What the web page sees and hears of clips in a real browser, against Python's decoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Page, browser
from tests.export.web_pages import DESCRIPTION, parts, runtime_folder, serving
from vidfit.export.web_page import find_runtime, write_page

pytest.importorskip("av")
from tests.videos import awkward
from tests.videos.making import frames_at, tone, write
from vidfit.videos.decode import Picture, Reading, Sampling, read_steps

SIZE = 64
PLAYS = "MediaSource.isTypeSupported('video/mp4; codecs=\"avc1.42E01E\"')"
# The picture of each step, and all sound at 16 kHz.
READ = """(async () => {
  const names = ["container", "frames", "pixels", "sound"];
  const modules = await Promise.all(names.map((name) => import(`./${name}.js`)));
  const [{ chromaShift }, { Frames }, { squareOf }, { resampled, soundOf }] = modules;
  const file = await (await fetch("NAME")).blob();
  const content = await file.arrayBuffer();
  const shift = chromaShift(new Uint8Array(content));
  const frames = await Frames.open(URL.createObjectURL(file));
  const pictures = [];
  for (let step = 0; frames.hasPictures && step < Math.round(frames.duration); step++) {
    pictures.push(Array.from(await squareOf(await frames.pictureAt(step + 0.5), SIZE, shift)));
  }
  frames.close();
  const heard = await soundOf(content, frames.duration);
  return { pictures, sound: heard && Array.from(resampled(heard.samples, heard.rate)) };
})()"""


def blocks(time: float) -> np.ndarray:
    """uint8 RGB `[122, 162, 3]`: blocks of random colours, others every twelfth of a second."""
    random = np.random.default_rng(int(time * 12 + 1e-6))
    return np.kron(random.integers(0, 256, (16, 21, 3), np.uint8), np.ones((8, 8, 1), np.uint8))[:122, :162]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoding") / "page"
    write_page(parts(), DESCRIPTION, folder, find_runtime(runtime_folder()))
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    with serving(folder, True) as (_, options), browser(folder.parent / "profile", *options) as page:
        page.open("http://localhost/", 1000)
        if not page.evaluate(PLAYS):
            pytest.skip("this Chromium does not play H.264")
        yield page


def read(page: Page, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `[steps, SIZE, SIZE, 3]` and sound `[samples]` in the page."""
    found = page.evaluate(READ.replace("NAME", path.name).replace("SIZE", str(SIZE)))
    return np.reshape(found["pictures"], (-1, SIZE, SIZE, 3)), np.array(found["sound"] or [])


def read_in_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    events = list(read_steps(path, Sampling(picture_size=SIZE, sound_window=16000), Reading()))
    pictures = [event.pixels for event in events if isinstance(event, Picture)]
    sounds = [event.samples for event in events if not isinstance(event, Picture)]
    return np.array(pictures, int), np.concatenate([np.zeros(0), *sounds])


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mp4", "libsvtav1"), ("a.webm", "libvpx-vp9"), ("a.webm", "libvpx")]
)
def test_the_page_sees_the_pixels_of_python(name: str, codec: str, page: Page, folder: Path):
    path = write(folder / name, blocks, frames_at(12, 2), codec=codec)
    found, _ = read(page, path)
    expected, _ = read_in_python(path)
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    # The browser's own colours differ by 5 on average.
    assert difference.max() <= 1
    assert difference.mean() < 0.01


@pytest.mark.parametrize("degrees", [90, 180, -90])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
def test_a_video_that_lies_on_its_side_is_upright(degrees: int, pixel_format: str, page: Page, folder: Path):
    path = awkward.rotated(folder, degrees, codec="libx264", pixel_format=pixel_format)
    found, _ = read(page, path)
    expected, _ = read_in_python(path)
    assert np.abs(found - expected).mean() < 2


def test_a_format_that_the_page_does_not_know_has_the_browsers_colours(page: Page, folder: Path):
    path = write(folder / "a.webm", blocks, frames_at(12, 1), codec="libvpx-vp9", pixel_format="gbrp")
    found, _ = read(page, path)
    expected, _ = read_in_python(path)
    # FFmpeg halves the colours of RGB before it scales them.
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.mp4", "aac", 44100), ("a.mp4", "aac", 48000), ("a.webm", "libopus", 48000)]
)
def test_the_page_hears_the_samples_of_python(name: str, codec: str, rate: int, page: Page, folder: Path):
    # Music: for speech at low rates, FFmpeg's own decoder of Opus differs from the one of its authors.
    chords = sum(tone(hertz, 2, rate, 0.1) for hertz in (330, 1234, 4567, 6789))
    video: dict[str, Any] = {"codec": "libvpx" if name.endswith("webm") else "libx264"}
    path = write(folder / name, blocks, frames_at(12, 2), chords, rate, sound_codec=codec, **video)  # type: ignore[arg-type]
    _, found = read(page, path)
    _, expected = read_in_python(path)
    # Python hears what the encoder has added at the end.
    np.testing.assert_allclose(found[50:31000], expected[50:31000], atol=2e-3)
