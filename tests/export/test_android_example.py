"""examples/android, compiled by Kotlin's own compiler and run on a JVM, gives the labels that Python gives.

Stand-ins for Android and ONNX Runtime (`android/*.kt`) ask this process, which decodes the video and runs the models.
"""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import vidfit
from tests.serving.models import write_video_model
from tests.videos.making import BLUE, RED, by_second, frames_at, tone, write
from vidfit.export.phones import write_for_phones
from vidfit.videos.picture import to_pixels
from vidfit.videos.sound import SoundWindows

av = pytest.importorskip("av")

ROOT = Path(__file__).parents[2]
COMPILER = ROOT / "build" / "kotlinc"
VECTORS = json.loads((ROOT / "docs/reference/reference-vectors.json").read_text(encoding="utf-8"))


class Phone:
    """The program on a JVM. A message is a count, and as many parts, each after its length."""

    def __init__(self, program: Path) -> None:
        library = COMPILER / "lib" / "kotlin-stdlib.jar"
        command = ["java", "-XX:+UseSerialGC", "-cp", f"{program}:{library}", "MainKt"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin
        assert process.stdout
        self.process, self.input, self.output = process, process.stdin, process.stdout

    def call(self, *parts: object, answer: Callable[[str, list[bytes]], list[object]] | None = None) -> list[bytes]:
        """What a command gives. What it asks for until then comes from `answer`."""
        self.send(*parts)
        while (message := self._receive())[0] != b"done":
            assert answer
            self.send(*answer(message[0].decode(), message[1:]))
        return message[1:]

    def send(self, *parts: object) -> None:
        contents = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        self.input.write(struct.pack(">i", len(contents)))
        for content in contents:
            self.input.write(struct.pack(">i", len(content)) + content)
        self.input.flush()

    def _receive(self) -> list[bytes]:
        return [self.output.read(self._number()) for _ in range(self._number())]

    def _number(self) -> int:
        found = self.output.read(4)
        assert found, "the program has ended; its error is on stderr"
        return struct.unpack(">i", found)[0]


class Clip:
    """A clip as a phone decodes it, and the models on it."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            self.milliseconds = round(container.duration / 1000)
            self.frames = [(frame.time, rgb(frame)) for frame in container.decode(video=0)]
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=0)) if container.streams.audio else []
            self.rate = frames[0].sample_rate if frames else 0
            self.sound = [frame.to_ndarray() for frame in frames]

    def answer(self, what: str, parts: list[bytes]) -> list[object]:
        match what:
            case "milliseconds":
                return [self.milliseconds]
            case "frame":
                time = int(parts[0]) / 1e6
                shown = [pixels for start, pixels in self.frames if start <= time]
                return [shown[-1].shape[1], shown[-1].shape[0], argb(shown[-1])] if time <= self.frames[-1][0] else []
            case "sound":
                return [len(self.sound[0]), self.rate, shorts(np.concatenate(self.sound, 1).T)] if self.sound else []
            case "json length":
                return [len(json.loads(parts[0]))]
            case "json":
                whole = json.loads(parts[0])
                found = whole[int(parts[1])] if isinstance(whole, list) else whole[parts[1].decode()]
                return [found if isinstance(found, str) else json.dumps(found)]
            case _:
                return run(*parts)


def run(model: bytes, output: bytes, *inputs: bytes) -> list[object]:
    session = onnxruntime.InferenceSession(model.decode())
    arrays = {
        name.decode(): np.frombuffer(content, kind.decode()).reshape([int(size) for size in shape.split()])
        for name, kind, shape, content in zip(*[iter(inputs)] * 4, strict=True)
    }
    return [np.asarray(session.run([output.decode()] if output else None, arrays)[0]).tobytes()]


def rgb(frame: Any) -> np.ndarray:
    """uint8 `[height, width, 3]`, with rounding where FFmpeg truncates by default."""
    kinds = av.video.reformatter.Interpolation
    flags = kinds.BICUBIC | kinds.ACCURATE_RND | kinds.FULL_CHR_H_INT
    return frame.reformat(format="rgb24", interpolation=flags, dst_color_range=2).to_ndarray()


def argb(pixels: np.ndarray) -> bytes:
    """Android's pixels of uint8 RGB `[height, width, 3]`."""
    red, green, blue = pixels.astype("<u4").transpose(2, 0, 1)
    return (0xFF000000 | red << 16 | green << 8 | blue).tobytes()


def shorts(samples: np.ndarray) -> bytes:
    """16 bits of samples from -1 to 1."""
    return np.rint(np.clip(samples * 32768, -32768, 32767)).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    if not COMPILER.is_dir() or not shutil.which("java"):
        pytest.skip("needs java and make build/kotlinc")
    program = tmp_path_factory.mktemp("android") / "program.jar"
    sources = [*(ROOT / "examples" / "android").glob("*.kt"), *(Path(__file__).parent / "android").glob("*.kt")]
    library = COMPILER / "lib" / "kotlin-compiler.jar"
    # Of the two compilers inside Java, the quick one alone: half the time.
    java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    compiler = [*java, "-cp", library, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    options = ["-kotlin-home", COMPILER, "-Werror", "-d", program]
    subprocess.run([*compiler, *options, *sources], check=True)
    phone = Phone(program)
    yield phone
    phone.send()
    assert phone.process.wait(60) == 0
    phone.input.close()
    phone.output.close()


def squared(phone: Phone, pixels: np.ndarray, size: int) -> np.ndarray:
    height, width, _ = pixels.shape
    (found,) = phone.call("squared", width, height, size, argb(pixels))
    return np.frombuffer(found, np.uint8).reshape(size, size, 3).astype(int)


def resampled(phone: Phone, samples: np.ndarray, rate: int) -> np.ndarray:
    (found,) = phone.call("resampled", rate, shorts(samples))
    return np.frombuffer(found, np.float32)


def resampled_in_python(samples: np.ndarray, rate: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    windows = SoundWindows(1.0, 16000)
    return np.concatenate([found for _, found in [*windows.push(frame, 0.0), *windows.finish(1)]])


def test_pictures_are_the_reference_vectors(phone: Phone):
    y, x = np.mgrid[0:48, 0:64]
    frame = av.VideoFrame(64, 48, "yuv420p")
    planes = (16 + 3 * x + 2 * (y % 8), (90 + 3 * y)[:24, :32], (170 - 2 * x)[:24, :32])
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : values.shape[1]] = values
        plane.update(padded.tobytes())
    vectors = VECTORS["picture"]
    found = squared(phone, rgb(frame), vectors["size"])
    for row, column, *colour in vectors["row, column, red, green, blue"]:
        # A phone rounds twice: to RGB, then to the square.
        assert np.abs(found[row, column] - colour).max() <= 2


@pytest.mark.parametrize("shape", [(122, 162), (300, 400), (40, 224)])
def test_pictures_are_scaled_as_in_python(phone: Phone, shape: tuple[int, int]):
    blocks = np.kron(np.random.default_rng(0).integers(0, 256, (38, 50), np.uint8), np.ones((8, 8), np.uint8))
    # Grey: FFmpeg halves the colours of RGB.
    pixels = np.repeat(blocks[: shape[0], : shape[1], None], 3, 2)
    expected = to_pixels(av.VideoFrame.from_ndarray(pixels), 64)
    assert np.abs(squared(phone, pixels, 64) - expected).max() <= 1


def test_sound_is_the_reference_vectors(phone: Phone):
    vectors, time = VECTORS["resampling"], np.arange(44100) / 44100
    both = 0.5 * np.sin(2 * np.pi * 440 * time), 0.3 * np.sin(2 * np.pi * 1000 * time)
    found = resampled(phone, np.mean(both, 0), vectors["rate"])
    assert len(found) == 16000
    for place, value in vectors["sample, value"]:
        assert found[place] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_sound_is_resampled_as_in_python(phone: Phone, rate: int):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, rate)
    found, expected = resampled(phone, samples, rate), resampled_in_python(samples, rate)
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_windows_start_where_the_reference_vectors_say(phone: Phone):
    starts = VECTORS["starts of windows at 3 steps per second"]
    for step, start in enumerate(starts):
        (found,) = phone.call("window", 32000, step, 3.0, 100)
        np.testing.assert_array_equal(np.frombuffer(found, np.float32), np.arange(start, start + 100))
    # Half of a window is enough; the rest is silence.
    (half,) = phone.call("window", starts[4] + 50, 4, 3.0, 100)
    np.testing.assert_array_equal(np.frombuffer(half, np.float32), [*range(starts[4], starts[4] + 50), *[0] * 50])
    assert phone.call("window", starts[4] + 49, 4, 3.0, 100) == [b""]


@pytest.mark.parametrize("with_sound", [True, False])
def test_a_clip_has_the_labels_of_python(phone: Phone, tmp_path: Path, with_sound: bool):
    model = write_video_model(tmp_path, with_extractor=True)
    write_for_phones(model, tmp_path / "phone")
    sound = tone(400, 3, 44100) if with_sound else None
    clip = write(tmp_path / "clip.mp4", by_second(RED, BLUE, BLUE), frames_at(12, 3), sound, 44100)
    (video,) = vidfit.label(model, clip)
    expected = {it.label: it.probability for it in video.labels if it.probability >= 0.5}
    assert expected
    lines = phone.call("label", tmp_path / "phone", answer=Clip(clip).answer)
    found = {name: float(probability) for probability, name in (line.decode().split(" ", 1) for line in lines)}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found == pytest.approx(expected, abs=1e-3)
