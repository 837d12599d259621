"""Pixels as a player would show them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.videos import awkward
from tests.videos.awkward import Light, quarters, yuv
from tests.videos.making import BLUE, GREEN, GREY, RED, av, frames_at, plain, write
from vidfit.videos.decode import Reading, Sampling, read_steps
from vidfit.videos.picture import tone_mapped

SIZE = 32


def first(path: Path, size: int = SIZE) -> np.ndarray:
    """int pixels of the first picture."""
    return next(iter(read_steps(path, Sampling(picture_size=size), Reading()))).pixels.astype(int)  # type: ignore[union-attr]


def corners(pixels: np.ndarray) -> list[str]:
    """Names of the colours at top left, top right, bottom left, bottom right."""
    named = {"red": RED, "green": GREEN, "blue": BLUE, "grey": GREY, "black": (0, 0, 0)}
    near, far = len(pixels) // 4, len(pixels) * 3 // 4
    places = [(near, near), (near, far), (far, near), (far, far)]
    return [min(named, key=lambda name: np.abs(pixels[place] - named[name]).sum()) for place in places]


UPRIGHT = ["red", "green", "blue", "grey"]


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, UPRIGHT),
        (90, ["green", "grey", "red", "blue"]),
        (180, ["grey", "blue", "green", "red"]),
        (-90, ["blue", "red", "grey", "green"]),
    ],
)
def test_rotation_in_the_metadata_is_applied(tmp_path, degrees, expected):
    path = awkward.rotated(tmp_path, degrees)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == degrees % 360
    assert corners(first(path)) == expected


def test_anamorphic_pixels_show_the_same_as_square_ones(tmp_path):
    square = write(tmp_path / "square.mp4", lambda time: quarters(128, 48), frames_at(12, 1))
    narrow = awkward.anamorphic(tmp_path)
    with av.open(str(narrow)) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio == Fraction(16, 9)
    assert np.abs(first(square) - first(narrow)).mean() < 3


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 640), (2, 2)])
def test_odd_sizes_are_read(tmp_path, size):
    assert np.abs(first(awkward.odd_size(tmp_path, size)) - GREEN).max() <= 4


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p16le", "gbrp12le", "gray", "bgra"],
)
def test_every_pixel_format_has_the_same_colours(tmp_path, pixel_format):
    colour = GREY if pixel_format == "gray" else RED
    assert np.abs(first(awkward.in_format(tmp_path, pixel_format)) - colour).max() <= 4


@pytest.mark.parametrize(
    ("luma", "full", "expected"), [(16, False, 0), (235, False, 255), (16, True, 16), (235, True, 235)]
)
def test_the_range_of_luma_is_the_one_that_the_file_names(tmp_path, luma, full, expected):
    assert np.abs(first(awkward.with_range(tmp_path, luma, full)) - expected).max() <= 2


@pytest.mark.parametrize(
    ("height", "named", "expected"),
    [(48, 0, (255, 0, 0)), (720, 0, (255, 24, 0)), (48, 1, (255, 24, 0)), (720, 5, (255, 0, 0))],
)
def test_the_matrix_is_the_named_one_or_that_of_the_height(tmp_path, height, named, expected):
    # Red in BT.601; BT.709 makes some green of it.
    def adjust(stream):
        if named:
            stream.codec_context.colorspace = named

    path = write(
        tmp_path / "clip.mkv",
        lambda time: plain(GREY, 16, height),
        frames_at(12, 1),
        codec="libx264",
        adjust=adjust,
        prepare=lambda picture: yuv(81, 90, 240, 16, height),
    )
    assert np.abs(first(path) - expected).max() <= 5


def test_an_interlaced_frame_gives_one_moment(tmp_path):
    path = awkward.interlaced(tmp_path)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert np.abs(first(path) - RED).max() <= 8


def test_what_is_transparent_becomes_grey_and_not_its_hidden_colour(tmp_path):
    assert corners(first(awkward.transparent(tmp_path))) == ["red", "grey", "red", "grey"]


class TestHdr:
    """Against the definition: light of BT.709 colours, encoded by the inverse of BT.2100's curves."""

    @pytest.mark.parametrize("colour", [RED, GREEN, BLUE, GREY, (60, 20, 90), (0, 0, 0)])
    @pytest.mark.parametrize("transfer", [16, 18])
    def test_colours_below_white_stay(self, transfer, colour):
        if transfer == 18 and not any(colour):
            return
        signal = (Light.pq if transfer == 16 else Light.hlg)(Light.of(colour))
        pixels = np.rint(signal * 65535).astype(np.uint16)[None, None]
        np.testing.assert_allclose(tone_mapped(pixels, transfer)[0, 0], colour, atol=2)

    def test_highlights_roll_off_without_clipping_before_white(self):
        light = np.array([100, 203, 400, 1000, 4000])
        pixels = np.rint(Light.pq(np.repeat(light[:, None], 3, 1)) * 65535).astype(np.uint16)[None]
        levels = tone_mapped(pixels, 16)[0, :, 0].astype(int)
        assert (np.diff(levels) >= 0).all()
        assert levels[1] < levels[2] <= 255

    def test_a_10_bit_hdr_file_is_not_washed_out(self, tmp_path):
        assert np.abs(first(awkward.hdr(tmp_path)).mean((0, 1)) - RED).max() <= 6
