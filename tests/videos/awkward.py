"""Awkward videos, one maker each: `maker(folder)` writes a file and returns its path.

Unless its maker says otherwise, a video shows red, green, blue, a second each. Tests read them;
`benchmarks/awkward_files.py` prints what each gives.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.videos.making import BLUE, GREEN, GREY, RED, av, by_second, frames_at, plain, tone, write, write_samples

SHOW = by_second(RED, GREEN, BLUE)
TIMES = frames_at(12, 3)
Maker = Callable[[Path], Path]


def at_25_frames(stream: Any) -> None:
    """MPEG-2 and transport streams know fixed rates alone."""
    if stream.codec_context.name == "mpeg2video":
        stream.codec_context.framerate = Fraction(25)
        stream.codec_context.time_base = Fraction(1, 25)


def variable_rate(folder: Path) -> Path:
    times = [0, 0.02, 0.05, 0.06, 0.07, 0.4, 1.1, 1.15, 2.01, 2.02, 2.03, 2.04, 2.9]
    return write(folder / "variable-rate.mp4", SHOW, times)


def first_timestamp(folder: Path, ending: str = "mkv") -> Path:
    """Picture and sound begin at 7.25 s."""
    return write(
        folder / f"first-timestamp.{ending}",
        lambda time: SHOW(time - 7.25),
        [time + 7.25 for time in frames_at(25, 3)],
        tone(440, 3),
        sound_start=7.25,
        codec="mpeg2video" if ending == "ts" else "mpeg4",
        sound_codec="mp3",
        adjust=at_25_frames,
    )


def negative_timestamps(folder: Path) -> Path:
    """The picture begins at -1 s, the sound at 0."""
    return write(
        folder / "negative-timestamps.mkv",
        lambda time: SHOW(time + 1),
        [time - 1 for time in TIMES],
        tone(440, 2),
        sound_codec="flac",
        container_options={"avoid_negative_ts": "disabled"},
    )


def edit_list(folder: Path) -> Path:
    """Frames of negative time, the red ones, are cut off by an edit list, as phones and editors do it."""
    return write(
        folder / "edit-list.mp4",
        lambda time: SHOW(time + 1),
        [time - 1 for time in TIMES],
        container_options={"avoid_negative_ts": "disabled", "use_editlist": "1"},
    )


def late_sound(folder: Path, ending: str = "mp4") -> Path:
    """Sound from 1.6 s."""
    return write(folder / f"late-sound.{ending}", SHOW, TIMES, tone(440, 1.4), sound_start=1.6)


def short_sound(folder: Path) -> Path:
    """Sound up to 1 s."""
    return write(folder / "short-sound.mp4", SHOW, TIMES, tone(440, 1))


def late_picture(folder: Path) -> Path:
    """Pictures from 1.6 s."""
    return write(folder / "late-picture.mkv", SHOW, [time + 1.6 for time in frames_at(12, 1.4)], tone(440, 3))


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """Red | green over blue | grey."""
    picture = np.zeros((height, width, 3), np.uint8)
    halves = (slice(None, height // 2), slice(height // 2, None)), (slice(None, width // 2), slice(width // 2, None))
    for row, colours in zip(halves[0], ((RED, GREEN), (BLUE, GREY)), strict=True):
        for column, colour in zip(halves[1], colours, strict=True):
            picture[row, column] = colour
    return picture


def rotated(folder: Path, degrees: int = 90, **options: Any) -> Path:
    """Quarters, with the display matrix of a phone that was held so (counter-clockwise)."""
    path = write(folder / "rotated.mp4", lambda time: quarters(), frames_at(12, 1), **options)
    cos, sin = round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    matrix = np.array([cos << 16, -sin << 16, 0, sin << 16, cos << 16, 0, 0, 0, 1 << 30], ">i4")
    content[place : place + 36] = matrix.tobytes()
    path.write_bytes(content)
    return path


def anamorphic(folder: Path) -> Path:
    """Quarters of 128 x 48 in 72 x 48 pixels of 16:9."""

    def squeezed(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(16, 9)

    return write(folder / "anamorphic.mp4", lambda time: quarters(72, 48), frames_at(12, 1), adjust=squeezed)


def interlaced(folder: Path) -> Path:
    """The first field is red, the second, 1/50 s later, blue."""

    def show(time: float) -> np.ndarray:
        picture = plain(RED)
        picture[1::2] = BLUE
        return picture

    def adjust(stream: Any) -> None:
        stream.codec_context.options = {"x264opts": "tff=1"}
        stream.codec_context.qmin, stream.codec_context.qmax = 1, 4

    return write(
        folder / "interlaced.mkv", show, frames_at(12, 1), codec="libx264", pixel_format="yuv444p", adjust=adjust
    )


def odd_size(folder: Path, size: tuple[int, int] = (63, 47)) -> Path:
    """Green, in 4:4:4."""
    return write(
        folder / "odd-size.mkv", lambda time: plain(GREEN, *size), [0.0, 0.5], codec="ffv1", pixel_format="yuv444p"
    )


def in_format(folder: Path, pixel_format: str = "yuv420p10le") -> Path:
    """Red; grey where there are no colours."""
    picture = plain(GREY if pixel_format == "gray" else RED)
    return write(
        folder / f"{pixel_format}.mkv", lambda time: picture, [0.0, 0.5], codec="ffv1", pixel_format=pixel_format
    )


def yuv(y: int, u: int, v: int, width: int = 64, height: int = 48) -> Any:
    """A frame of one colour in 4:2:0."""
    planes = np.concatenate(
        [np.full(width * height, y), np.full(width * height // 4, u), np.full(width * height // 4, v)]
    )
    return av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(height * 3 // 2, width), "yuv420p")


def with_range(folder: Path, luma: int = 235, full: bool = True) -> Path:
    """One grey in YCbCr of full or of limited range."""
    return write(
        folder / "range.mp4",
        lambda time: plain(GREY),
        frames_at(12, 1),
        codec="libx264",
        adjust=lambda stream: setattr(stream.codec_context, "color_range", 2 if full else 1),
        prepare=lambda picture: yuv(luma, 128, 128),
    )


class Light:
    """BT.2100's curves, inverted: sRGB colours to HDR signals."""

    TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])

    @classmethod
    def of(cls, srgb: Any) -> np.ndarray:
        """cd/m2 in BT.2020 of an sRGB colour where white has 203."""
        value = np.asarray(srgb) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return 203 * cls.TO_BT2020 @ linear

    @staticmethod
    def pq(light: Any) -> np.ndarray:
        power = (np.asarray(light) / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375

    @staticmethod
    def hlg(light: Any) -> np.ndarray:
        luminance = light @ np.array([0.2627, 0.6780, 0.0593])
        scene = light / 1000 / (luminance / 1000) ** (0.2 / 1.2)
        logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)


def hdr(folder: Path) -> Path:
    """Red in PQ, 10 bits."""

    def adjust(stream: Any) -> None:
        context = stream.codec_context
        context.options = {"x265-params": "log-level=none"}
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1

    def prepare(picture: np.ndarray) -> Any:
        red, green, blue = Light.pq(Light.of(RED))
        luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
        codes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
        planes = [np.full(48 * 64 // part, code) for code, part in zip(codes, (1, 4, 4), strict=True)]
        array = np.rint(np.concatenate(planes)).astype(np.uint16).reshape(72, 64)
        return av.VideoFrame.from_ndarray(array, "yuv420p10le")

    return write(
        folder / "hdr.mp4",
        lambda time: plain(RED),
        frames_at(12, 1),
        codec="libx265",
        pixel_format="yuv420p10le",
        adjust=adjust,
        prepare=prepare,
    )


def transparent(folder: Path) -> Path:
    """Red on the left; on the right a blue that nobody sees."""

    def show(time: float) -> np.ndarray:
        picture = np.zeros((48, 64, 4), np.uint8)
        picture[:, :32] = (*RED, 255)
        picture[:, 32:] = (*BLUE, 0)
        return picture

    return write(
        folder / "transparent.mkv",
        show,
        [0.0, 0.5],
        codec="ffv1",
        pixel_format="bgra",
        prepare=lambda picture: av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="bgra"),
    )


def gif(folder: Path) -> Path:
    return write(folder / "drawing.gif", SHOW, TIMES, codec="gif", pixel_format="rgb8")


def one_frame(folder: Path) -> Path:
    """Blue."""
    return write(folder / "one-frame.mp4", by_second(BLUE), [0.0])


def two_tracks(folder: Path) -> Path:
    """300 Hz, and 900 Hz in the default track."""
    path = folder / "two-tracks.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=16000, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, pitch in zip(streams, (300, 900), strict=True):
            write_samples(container, stream, tone(pitch, 2), 16000)
    return path


def cover_art(folder: Path) -> Path:
    """A song of 3 s with a red cover."""
    path = folder / "song.mp3"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(plain(RED)).reformat(format="yuvj420p")
        frame.pts = 0
        for packet in [*cover.encode(frame), *cover.encode(None)]:
            container.mux(packet)
        sound = av.AudioFrame.from_ndarray(tone(440, 3), "fltp", "mono")
        sound.sample_rate = 16000
        for packet in [*stream.encode(sound), *stream.encode(None)]:
            container.mux(packet)
    return path


def sound_alone(folder: Path) -> Path:
    return write(folder / "sound.m4a", None, (), tone(440, 3), format="mp4")


def picture_alone(folder: Path) -> Path:
    return write(folder / "picture.mp4", SHOW, TIMES)


def with_sound(folder: Path, rate: int, layout: str, channels: int) -> Path:
    """440 Hz in every channel."""
    samples = np.repeat(tone(440, 3, rate), channels, 0)
    path = folder / f"{rate}-{layout}.mkv"
    return write(path, None, (), samples, sound_rate=rate, layout=layout, sound_codec="flac")


def damaged_middle(folder: Path, ending: str = "mkv") -> Path:
    """Red, green, green, blue; a tenth of the file is random bytes. In an MP4, all pictures follow from the first."""
    gop = 6 if ending == "mkv" else 48
    path = write(
        folder / f"damaged.{ending}", by_second(RED, GREEN, GREEN, BLUE), frames_at(12, 4), tone(440, 4),
        codec="libx264", adjust=lambda stream: setattr(stream.codec_context, "gop_size", gop),
    )  # fmt: skip
    content = bytearray(path.read_bytes())
    middle = slice(len(content) * 4 // 10, len(content) * 5 // 10)
    content[middle] = np.random.default_rng(0).bytes(middle.stop - middle.start)
    path.write_bytes(content)
    return path


def cut_tail(folder: Path) -> Path:
    """Of 8 s red, 6 of 10 bytes."""
    at_front = {"movflags": "faststart"}
    path = write(folder / "cut.mp4", by_second(*[RED] * 8), frames_at(12, 8), container_options=at_front)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    return path


def index_cut_off(folder: Path) -> Path:
    """An MP4 whose index was at the end."""
    path = write(folder / "index-cut-off.mp4", SHOW, TIMES)
    path.write_bytes(path.read_bytes()[:-600])
    return path


def no_index(folder: Path) -> Path:
    """Bare MPEG-2 pictures: no container, no timestamps."""
    return write(
        folder / "bare.m4v", SHOW, frames_at(25, 3), codec="mpeg2video", format="mpeg2video", adjust=at_25_frames
    )


def lying_length(folder: Path) -> Path:
    """3 s, of which the header says that they are 25 hours."""
    path = write(folder / "lying.mkv", SHOW, TIMES, tone(440, 3))
    content = bytearray(path.read_bytes())
    place = content.index(b"\x44\x89\x88") + 3
    content[place : place + 8] = np.array([9e7], ">f8").tobytes()
    path.write_bytes(content)
    return path


def text(folder: Path, content: bytes = b"hello\n" * 500) -> Path:
    path = folder / "text.mp4"
    path.write_bytes(content)
    return path


def random_bytes(folder: Path) -> Path:
    path = folder / "random.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def list_of_files(folder: Path) -> Path:
    """A text that tells FFmpeg to play another file."""
    other = picture_alone(folder)
    path = folder / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {other.name}\n")
    return path


def folder_named_so(folder: Path) -> Path:
    path = folder / "folder.mp4"
    path.mkdir()
    return path


def other_name(folder: Path) -> Path:
    return write(folder / "café 日本.mp4", SHOW, TIMES)


AWKWARD: Final[dict[str, Maker]] = {
    "variable frame rate": variable_rate,
    "first timestamp 7.25 s": first_timestamp,
    "picture from -1 s": negative_timestamps,
    "edit list cuts 1 s": edit_list,
    "sound from 1.6 s": late_sound,
    "sound to 1 s": short_sound,
    "picture from 1.6 s": late_picture,
    "rotated": rotated,
    "anamorphic": anamorphic,
    "interlaced": interlaced,
    "63 x 47, 4:4:4": odd_size,
    "full range": with_range,
    "10 bits": in_format,
    "HDR": hdr,
    "alpha": transparent,
    "GIF": gif,
    "one frame": one_frame,
    "two sound tracks": two_tracks,
    "cover art": cover_art,
    "sound alone": sound_alone,
    "picture alone": picture_alone,
    "8 kHz mono": lambda folder: with_sound(folder, 8000, "mono", 1),
    "48 kHz 5.1": lambda folder: with_sound(folder, 48000, "5.1", 6),
    "damaged middle": damaged_middle,
    "damaged middle, MP4": lambda folder: damaged_middle(folder, "mp4"),
    "cut tail": cut_tail,
    "index cut off": index_cut_off,
    "no index": no_index,
    "length lies": lying_length,
    "text": text,
    "random bytes": random_bytes,
    "list of files": list_of_files,
    "folder": folder_named_so,
    "not ASCII": other_name,
}
