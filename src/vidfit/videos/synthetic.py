"""Videos with known content, for the demo: shapes that move and sounds, each for some seconds of a clip.

A clip depends on the seed and its own number alone. Labels are what is seen or heard in it; `segments.csv` says when.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from vidfit.files import make_folder, replacing, write_table
from vidfit.videos.decode import av

_SIZE: Final = 128  # pixels, height and width
_PICTURES_PER_SECOND: Final = 8
_SAMPLE_RATE: Final = 16_000
_ROW, _COLUMN = np.mgrid[:_SIZE, :_SIZE]

# Which pixels a shape covers, by how far right and below its centre they are, in units of its radius.
_SHAPES: Final[dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "circle": lambda x, y: x**2 + y**2 < 1,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    "stripes": lambda x, y: (np.maximum(abs(x), abs(y)) < 1) & (np.floor(x * 4) % 2 == 0),
}
# Amplitude at some times in seconds; the random numbers are the clip's.
_SOUNDS: Final[dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]]] = {
    "tone": lambda time, random: np.sin(2 * np.pi * random.uniform(300, 900) * time),
    "noise": lambda time, random: random.normal(0, 0.4, len(time)),
    "beeps": lambda time, random: np.sin(2 * np.pi * random.uniform(1200, 2000) * time) * (time * 4 % 1 < 0.5),
}
LABELS: Final = (*_SHAPES, *_SOUNDS)


@dataclass(frozen=True)
class _Scene:
    label: str
    start: float
    end: float


def write_clips(
    folder: Path, count: int, seed: int, on_clip: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Write `000.mp4` and so on, `labels.csv` (`path,labels`) and `segments.csv` (`path,label,start,end`).

    Raises:
        OutputError: the folder cannot be written.
        VidfitError: PyAV is not installed.
    """
    make_folder(folder)
    labels, segments = [], []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        path, seconds = folder / f"{number:03d}.mp4", int(random.integers(7, 12))
        scenes = _plan(seconds, random)
        with replacing(path) as partial:
            _write_video(partial, seconds, scenes, random)
        labels.append([path.name, ";".join(sorted({scene.label for scene in scenes}))])
        segments += [[path.name, scene.label, f"{scene.start:.2f}", f"{scene.end:.2f}"] for scene in scenes]
        on_clip(number + 1, count)
    # The table of labels is what `extract` is given, so it comes last.
    write_table(folder / "segments.csv", ["path", "label", "start", "end"], segments)
    write_table(folder / "labels.csv", ["path", "labels"], labels)


def _plan(seconds: int, random: np.random.Generator) -> list[_Scene]:
    """One or two shapes, one after the other, and up to one sound."""
    shapes = random.choice(list(_SHAPES), size=random.integers(1, 3), replace=False)
    room = seconds / len(shapes)
    scenes = [_scene(str(shape), place * room, room, random) for place, shape in enumerate(shapes)]
    sounds = random.choice(list(_SOUNDS), size=random.integers(0, 2), replace=False)
    return scenes + [_scene(str(sound), 0, seconds, random) for sound in sounds]


def _scene(label: str, begin: float, room: float, random: np.random.Generator) -> _Scene:
    length = random.uniform(2.5, min(room, 5))
    start = begin + random.uniform(0, room - length)
    return _Scene(label, float(start), float(start + length))


def _write_video(path: Path, seconds: int, scenes: list[_Scene], random: np.random.Generator) -> None:
    library: Any = av()
    with library.open(str(path), "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=_PICTURES_PER_SECOND)
        pictures.width = pictures.height = _SIZE
        pictures.pix_fmt, pictures.bit_rate = "yuv420p", 400_000
        sound = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono")
        back = random.uniform(40, 110, 3) + random.normal(0, 12, (_SIZE, _SIZE, 1))
        colour, speed = random.uniform(150, 255, 3), random.uniform(-1, 1, 2)
        for number in range(seconds * _PICTURES_PER_SECOND):
            time = number / _PICTURES_PER_SECOND
            shown = [scene.label for scene in scenes if scene.label in _SHAPES and scene.start <= time < scene.end]
            frame = library.VideoFrame.from_ndarray(_picture(shown, time, back, colour, speed))
            container.mux(pictures.encode(frame))
        frame = library.AudioFrame.from_ndarray(_samples(scenes, seconds, random)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = _SAMPLE_RATE, Fraction(1, _SAMPLE_RATE), 0
        container.mux([*pictures.encode(), *sound.encode(frame), *sound.encode()])


def _picture(shown: list[str], time: float, back: np.ndarray, colour: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """uint8 RGB `[H, W, 3]`: a shape that drifts over a background `[H, W, 3]`."""
    pixels = back.copy()
    for shape in shown:
        across, down = _SIZE * (0.5 + 0.15 * np.sin(speed * time))
        pixels[_SHAPES[shape]((_COLUMN - across) / 40, (_ROW - down) / 40)] = colour
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _samples(scenes: list[_Scene], seconds: int, random: np.random.Generator) -> np.ndarray:
    """float32 `[N]`: faint noise, and each sound in its scene."""
    time = np.arange(seconds * _SAMPLE_RATE) / _SAMPLE_RATE
    samples = random.normal(0, 0.003, len(time))
    for scene in scenes:
        if scene.label in _SOUNDS:
            inside = (time >= scene.start) & (time < scene.end)
            samples[inside] += 0.5 * _SOUNDS[scene.label](time[inside], random)
    return samples.astype(np.float32)
