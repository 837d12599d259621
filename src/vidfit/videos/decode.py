"""Read a video file as steps of time: one picture and one stretch of sound each.

Step k covers the time from `k / rate` to `(k + 1) / rate` seconds. Its picture is the one a player shows in the middle
of the step. Its sound starts with the step. Time 0 is when the earlier of picture and sound begins, so both keep their
place relative to each other, whatever timestamps the file starts with.

Only presentation times count, never frame numbers: frame rates vary, and edit lists hide frames. Files are streamed:
memory holds a few frames, however long a video is. FFmpeg decodes in one thread; run several processes instead.

What cannot be read is skipped and told in `Reading.notes`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from vidfit.errors import DataError, VidfitError, reason
from vidfit.videos.picture import to_pixels
from vidfit.videos.skipping import mark_unshown
from vidfit.videos.sound import SoundWindows

# A player waits no longer than this for the next frame: the timestamp is wrong. Seconds.
_LONGEST_PAUSE = 3600.0
# Timestamps may go back a little where files are sloppy. Further back, a new part begins. Seconds.
_LONGEST_STEP_BACK = 1.0
# A damaged file's decoder lets frames go in the wrong order. That many of H.264's may be behind; more are a new part.
_MOST_FRAMES_BEHIND = 16
# Formats of texts: FFmpeg draws any text as pictures, and plays the files that a list names.
_TEXTS = {"tty", "concat", "hls", "dash"}
# How far the real end may be from the length that the file states before it is told. Seconds.
_END_TOLERANCE = 1.5


class Picture(NamedTuple):
    """What a player shows in the middle of a step."""

    step: int
    pixels: np.ndarray
    """uint8 `[size, size, 3]`, RGB; the whole picture, upright, stretched to a square."""


class Sound(NamedTuple):
    """What is heard from the start of a step."""

    step: int
    samples: np.ndarray
    """float32 `[window]` in [-1, 1], mono at 16 kHz."""


@dataclass(frozen=True)
class Sampling:
    """Which pictures and sounds to take.

    Attributes:
        rate: steps per second.
        picture_size: height and width of the pictures in pixels; 0 reads no pictures.
        sound_window: samples of sound per step; 0 reads no sound.
        picture_time: where in a step its picture is taken: 0 is the start, 0.5 the middle.
    """

    rate: float = 1.0
    picture_size: int = 224
    sound_window: int = 15600
    picture_time: float = 0.5

    def has_step(self, start: float, end: float) -> bool:
        """Whether a picture is taken between two times, in seconds."""
        return math.ceil(start * self.rate - self.picture_time) <= end * self.rate - self.picture_time


@dataclass
class Reading:
    """What is known once a file has been read.

    Attributes:
        duration: seconds.
        steps: how many steps the video has, at least 1.
        notes: what was wrong with the file, a short sentence each.
    """

    duration: float = 0.0
    steps: int = 0
    notes: list[str] = field(default_factory=list)


def av() -> ModuleType:
    """PyAV.

    Raises:
        VidfitError: it is not installed.
    """
    try:
        import av as module
        import av.logging
    except ImportError as error:
        raise VidfitError("reading videos needs PyAV; install it with: pip install 'vidfit[videos]'") from error
    # FFmpeg prints about damaged files; the notes tell it instead.
    av.logging.set_level(None)
    return module


def read_steps(path: Path, sampling: Sampling, reading: Reading) -> Iterator[Picture | Sound]:
    """Stream the pictures and sounds of a file, each kind in the order of its steps.

    A step without a picture (before the first frame) or without sound (where the track has none for more than half the
    window) is left out. After the last frame its picture stays, as in a player.

    Arguments:
        path: a video, a sound file or an animated picture, in any format FFmpeg knows.
        sampling: what to take.
        reading: filled when the file ends.

    Raises:
        DataError: nothing of the file can be read.
        VidfitError: PyAV is not installed.
    """
    with _opened(path) as container:
        picture_stream, sound_stream = _streams(container)
        picture_stream = picture_stream if sampling.picture_size else None
        sound_stream = sound_stream if sampling.sound_window else None
        streams = [stream for stream in (picture_stream, sound_stream) if stream is not None]
        if not streams:
            raise DataError(f"{path}: holds nothing of what is asked for (picture or sound); give another file")
        zero = min((float(it.start_time * it.time_base) for it in streams if it.start_time is not None), default=0.0)
        pictures = _PictureSteps(sampling) if picture_stream is not None else None
        sounds = SoundWindows(sampling.rate, sampling.sound_window) if sound_stream is not None else None
        clocks = {stream.index: _Clock(zero) for stream in streams}
        picture_index = picture_stream.index if picture_stream is not None else None
        frames = _Frames(
            container, streams, picture_stream, lambda start, end: sampling.has_step(start - zero, end - zero)
        )
        for index, frame in frames:
            place = clocks[index].place(frame, damaged=frames.damaged > 0)
            if place is None:
                continue
            start, end = place
            if pictures and index == picture_index:
                yield from (Picture(*item) for item in pictures.push(frame, start))
            elif sounds and end > 0:
                yield from (Sound(*item) for item in sounds.push(frame, start))
        if not any(clock.frames for clock in clocks.values()):
            raise DataError(f"{path}: not one frame can be decoded ({frames.problem or 'it is empty'}); replace it")
        reading.duration = max(clock.end for clock in clocks.values())
        reading.steps = max(1, round(reading.duration * sampling.rate + 1e-6))
        if pictures:
            yield from (Picture(*item) for item in pictures.finish(reading.steps))
        if sounds:
            yield from (Sound(*item) for item in sounds.finish(reading.steps))
        reading.notes += _notes(container, frames, clocks, reading.duration, zero)


def is_video(path: Path) -> bool:
    """Whether a file's content is a video or sound that can be opened. Still pictures and texts are not."""
    try:
        with _opened(path) as container:
            still = container.format.name.endswith("_pipe") or container.format.name == "image2"
            return not still and any(stream is not None for stream in _streams(container))
    except DataError:
        return False


def _opened(path: Path) -> Any:
    module = av()
    try:
        # A prefix, because FFmpeg would take "12:30.mp4" for a protocol called 12.
        container = module.open(f"file:{path}", metadata_errors="ignore")
    except (module.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: is no video that can be opened ({_said(error)}); replace it") from error
    if container.format.name in _TEXTS:
        container.close()
        raise DataError(f"{path}: is a text, no video; replace it")
    return container


def _said(error: Exception) -> str:
    return reason(ValueError(getattr(error, "strerror", None) or str(error)))


def _streams(container: Any) -> tuple[Any, Any]:
    """The picture and the sound to take; each may be None.

    Cover art is no picture. Of several tracks the one marked as default counts, then the first.
    """
    module = av()
    cover = module.stream.Disposition.attached_pic
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & cover and stream.codec_context is not None and stream.codec_context.width
    ]
    sounds = [
        stream for stream in container.streams.audio if stream.codec_context is not None and stream.codec_context.rate
    ]
    default = module.stream.Disposition.default

    def chosen(streams: list[Any]) -> Any:
        return min(streams, key=lambda it: (not it.disposition & default, it.index), default=None)

    return chosen(pictures), chosen(sounds)


class _Frames:
    """Decoded frames `(stream index, frame)` in the order of the file. Damaged packets are skipped and counted.

    Arguments:
        streams: those to decode.
        pictures: that of the pictures, if any. Frames that no step shows may be missing.
        has_step: whether a step falls between two timestamps, in seconds.
    """

    def __init__(
        self, container: Any, streams: list[Any], pictures: Any, has_step: Callable[[float, float], bool]
    ) -> None:
        self._container, self._streams = container, streams
        self._pictures, self._has_step = pictures, has_step
        self._end: Exception | None = None
        self.damaged = 0
        self.problem = ""
        for stream in streams:
            stream.codec_context.thread_count = 1

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        module = av()
        for packet, unshown in self._packets():
            if self._pictures is not None:
                self._pictures.codec_context.skip_frame = "NONREF" if unshown and not self.damaged else "DEFAULT"
            try:
                for frame in packet.decode():
                    self.damaged += bool(frame.is_corrupt)
                    yield packet.stream.index, frame
            except (module.FFmpegError, OSError, ValueError) as error:
                self._tell(error)
        if self._end:
            self._tell(self._end)
            yield from self._flushed()

    def _packets(self) -> Iterator[tuple[Any, bool]]:
        """Each packet, and whether no step shows its frame."""
        packets = self._demuxed()
        if self._pictures is None:
            return ((packet, False) for packet in packets)
        return mark_unshown(packets, self._pictures, self._has_step)

    def _demuxed(self) -> Iterator[Any]:
        """Packets up to the end, or to what cannot be read."""
        packets = self._container.demux(*self._streams)
        module = av()
        while True:
            try:
                packet = next(packets, None)
            except (module.FFmpegError, OSError) as error:
                self._end = error
                return
            if packet is None:
                return
            yield packet

    def _flushed(self) -> Iterator[tuple[int, Any]]:
        module = av()
        for stream in self._streams:
            try:
                for frame in stream.decode(None):
                    yield stream.index, frame
            except (module.FFmpegError, OSError, ValueError) as error:
                self._tell(error)

    def _tell(self, error: Exception) -> None:
        self.damaged += 1
        self.problem = self.problem or _said(error)


class _Clock:
    """Where the frames of one track lie in time, in seconds from `zero`."""

    def __init__(self, zero: float) -> None:
        self._shift = -zero
        self.end = 0.0
        self.frames = 0
        self.jumps = 0
        self._last = 0.0
        self._behind = 0

    def place(self, frame: Any, damaged: bool) -> tuple[float, float] | None:
        """Start and end of a frame; None for one whose time is over. Frames without a timestamp follow the one before.

        Arguments:
            damaged: the decoder has met damage, so a frame that steps back may be a stray one.
        """
        length = _length(frame)
        start = self.end if frame.pts is None else frame.time + self._shift
        if self.frames and not -_LONGEST_STEP_BACK <= start - self._last <= _LONGEST_PAUSE:
            self._behind += start < self._last
            if damaged and start < self._last and self._behind <= _MOST_FRAMES_BEHIND:
                return None
            self._shift += self.end - start
            start = self.end
            self.jumps += 1
        self._behind = 0
        self._last = start
        self.frames += 1
        self.end = max(self.end, start + length)
        return start, start + length


def _length(frame: Any) -> float:
    """Seconds that a frame lasts."""
    if hasattr(frame, "samples"):
        return frame.samples / frame.sample_rate
    base = frame.time_base
    return frame.duration * base.numerator / base.denominator if base and frame.duration else 0.0


class _PictureSteps:
    """Turns frames into the pictures of steps: the frame that is shown at the time of each."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._step = 0
        self._frame: Any = None
        self._pixels: np.ndarray | None = None

    def push(self, frame: Any, start: float) -> Iterator[tuple[int, np.ndarray]]:
        """One more frame, in the order of presentation; yields the steps that are decided."""
        while self._time(self._step) < start:
            yield from self._shown()
        self._frame, self._pixels = frame, None

    def finish(self, steps: int) -> Iterator[tuple[int, np.ndarray]]:
        while self._step < steps:
            yield from self._shown()

    def _time(self, step: int) -> float:
        return (step + self._sampling.picture_time) / self._sampling.rate

    def _shown(self) -> Iterator[tuple[int, np.ndarray]]:
        if self._frame is not None:
            if self._pixels is None:
                self._pixels = to_pixels(self._frame, self._sampling.picture_size)
            yield self._step, self._pixels
        self._step += 1


def _notes(container: Any, frames: _Frames, clocks: dict[int, _Clock], duration: float, zero: float) -> list[str]:
    notes = []
    if frames.damaged:
        notes.append(f"{frames.damaged} damaged packets or frames" + (f" ({frames.problem})" if frames.problem else ""))
    if any(clock.jumps for clock in clocks.values()):
        notes.append("timestamps jump; the parts were joined")
    if container.duration:
        stated = container.duration / av().time_base
        # Some formats state the length, some the last timestamp.
        apart = min(abs(stated - duration), abs(stated - zero - duration))
        if apart > max(_END_TOLERANCE, 0.02 * duration):
            notes.append(f"ends at {duration:.1f} s although its header says {stated:.1f} s")
    return notes
