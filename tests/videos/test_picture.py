"""Pixels as a player would show them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.videos.making import BLUE, GREEN, RED, av, frames_at, plain, write
from vidfit.videos.decode import Reading, Sampling, read_steps
from vidfit.videos.picture import tone_mapped

SIZE = 32
GREY = (127, 127, 127)


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """Red | green over blue | grey."""
    picture = np.zeros((height, width, 3), np.uint8)
    halves = (slice(None, height // 2), slice(height // 2, None)), (slice(None, width // 2), slice(width // 2, None))
    for row, colours in zip(halves[0], ((RED, GREEN), (BLUE, GREY)), strict=True):
        for column, colour in zip(halves[1], colours, strict=True):
            picture[row, column] = colour
    return picture


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
    path = tmp_path / "clip.mp4"
    write(path, lambda time: quarters(), frames_at(12, 1), container_options={})
    set_rotation(path, degrees)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == degrees % 360
    assert corners(first(path)) == expected


def set_rotation(path: Path, degrees: int) -> None:
    """Write the display matrix of an MP4's picture track, as a phone that is held so does it (counter-clockwise)."""
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    matrix = np.array([cos << 16, -sin << 16, 0, sin << 16, cos << 16, 0, 0, 0, 1 << 30], ">i4")
    content[place : place + 36] = matrix.tobytes()
    path.write_bytes(content)


def test_anamorphic_pixels_show_the_same_as_square_ones(tmp_path):
    def squeezed(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 9)

    square = write(tmp_path / "square.mp4", lambda time: quarters(128, 48), frames_at(12, 1))
    narrow = write(tmp_path / "narrow.mp4", lambda time: quarters(72, 48), frames_at(12, 1), adjust=squeezed)
    with av.open(str(narrow)) as container:
        assert container.streams.video[0].codec_context.sample_aspect_ratio == Fraction(16, 9)
    assert np.abs(first(square) - first(narrow)).mean() < 3


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (17, 640), (2, 2)])
def test_odd_sizes_are_read(tmp_path, size):
    path = write(
        tmp_path / "clip.mkv", lambda time: plain(GREEN, *size), [0.0, 0.5], codec="ffv1", pixel_format="yuv444p"
    )
    assert np.abs(first(path) - GREEN).max() <= 4


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p16le", "gbrp12le", "gray", "bgra"],
)
def test_every_pixel_format_has_the_same_colours(tmp_path, pixel_format):
    colour = GREY if pixel_format == "gray" else RED
    path = write(tmp_path / "clip.mkv", lambda time: plain(colour), [0.0, 0.5], codec="ffv1", pixel_format=pixel_format)
    assert np.abs(first(path) - colour).max() <= 4


@pytest.mark.parametrize(
    ("luma", "full", "expected"), [(16, False, 0), (235, False, 255), (16, True, 16), (235, True, 235)]
)
def test_the_range_of_luma_is_the_one_that_the_file_names(tmp_path, luma, full, expected):
    path = write(
        tmp_path / "clip.mp4",
        lambda time: plain(GREY),
        frames_at(12, 1),
        codec="libx264",
        adjust=lambda stream: setattr(stream.codec_context, "color_range", 2 if full else 1),
        prepare=lambda picture: yuv(luma, 128, 128),
    )
    assert np.abs(first(path) - expected).max() <= 2


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


def yuv(y: int, u: int, v: int, width: int = 64, height: int = 48):
    planes = np.concatenate(
        [np.full(width * height, y), np.full(width * height // 4, u), np.full(width * height // 4, v)]
    )
    return av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(height * 3 // 2, width), "yuv420p")


def test_an_interlaced_frame_gives_one_moment(tmp_path):
    def show(time):
        picture = plain(RED)
        picture[1::2] = BLUE  # the second field, 1/50 s later
        return picture

    def adjust(stream):
        stream.codec_context.options = {"x264opts": "tff=1"}
        stream.codec_context.qmin, stream.codec_context.qmax = 1, 4

    path = write(tmp_path / "clip.mkv", show, frames_at(12, 1), codec="libx264", pixel_format="yuv444p", adjust=adjust)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert np.abs(first(path) - RED).max() <= 8


def test_what_is_transparent_becomes_grey_and_not_its_hidden_colour(tmp_path):
    def show(time):
        picture = np.zeros((48, 64, 4), np.uint8)
        picture[:, :32] = (*RED, 255)
        picture[:, 32:] = (*BLUE, 0)
        return picture

    path = write(
        tmp_path / "clip.mkv",
        show,
        [0.0, 0.5],
        codec="ffv1",
        pixel_format="bgra",
        prepare=lambda picture: av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="bgra"),
    )
    assert corners(first(path)) == ["red", "grey", "red", "grey"]


class TestHdr:
    """Against the definition: light of BT.709 colours, encoded by the inverse of BT.2100's curves."""

    TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])

    def light(self, srgb) -> np.ndarray:
        """cd/m2 in BT.2020 of an sRGB colour where white has 203."""
        value = np.asarray(srgb) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return 203 * self.TO_BT2020 @ linear

    def pq(self, light) -> np.ndarray:
        power = (np.asarray(light) / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

    def hlg(self, light) -> np.ndarray:
        luminance = light @ np.array([0.2627, 0.6780, 0.0593])
        scene = light / 1000 / (luminance / 1000) ** (0.2 / 1.2)
        logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)

    @pytest.mark.parametrize("colour", [RED, GREEN, BLUE, GREY, (60, 20, 90), (0, 0, 0)])
    @pytest.mark.parametrize("transfer", [16, 18])
    def test_colours_below_white_stay(self, transfer, colour):
        if transfer == 18 and not any(colour):
            return
        signal = (self.pq if transfer == 16 else self.hlg)(self.light(colour))
        pixels = np.rint(signal * 65535).astype(np.uint16)[None, None]
        np.testing.assert_allclose(tone_mapped(pixels, transfer)[0, 0], colour, atol=2)

    def test_highlights_roll_off_without_clipping_before_white(self):
        light = np.array([100, 203, 400, 1000, 4000])
        pixels = np.rint(self.pq(np.repeat(light[:, None], 3, 1)) * 65535).astype(np.uint16)[None]
        levels = tone_mapped(pixels, 16)[0, :, 0].astype(int)
        assert (np.diff(levels) >= 0).all()
        assert levels[1] < levels[2] <= 255

    def test_a_10_bit_hdr_file_is_not_washed_out(self, tmp_path):
        def adjust(stream):
            context = stream.codec_context
            context.options = {"x265-params": "log-level=none"}
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1

        def prepare(picture):
            red, green, blue = self.pq(self.light(RED))
            luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
            codes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
            planes = [np.full(48 * 64 // part, code) for code, part in zip(codes, (1, 4, 4), strict=True)]
            array = np.rint(np.concatenate(planes)).astype(np.uint16).reshape(72, 64)
            return av.VideoFrame.from_ndarray(array, "yuv420p10le")

        path = write(
            tmp_path / "clip.mp4",
            lambda time: plain(RED),
            frames_at(12, 1),
            codec="libx265",
            pixel_format="yuv420p10le",
            adjust=adjust,
            prepare=prepare,
        )
        assert np.abs(first(path).mean((0, 1)) - RED).max() <= 6
