"""Peak memory of `vidfit extract` as a video gets longer, and as there are more of them.

Long videos are made here: 320 x 180 pixels, 5 pictures a second, and a tone. Many videos are clips of two seconds. The
command, its workers and multiprocessing's own helper are one group of processes. Each figure is a resident set, the
pages that processes share counted in each: the largest of one process (the kernel's own record), and the sum, looked at
twenty times a second.

Run it: `python benchmarks/extract_memory.py`.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from short_clips import CLIPS, extract_command, write_short_clips
from table import options, publish

WIDTH, HEIGHT, PICTURES_PER_SECOND, SAMPLE_RATE = 320, 180, 5, 16_000


def write_long_video(path: Path, seconds: int) -> None:
    """A picture that changes colour, and a tone of 440 Hz."""
    tone = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)[None] / 2
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=PICTURES_PER_SECOND, options={"preset": "ultrafast"})
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        picture = np.zeros((HEIGHT * 3 // 2, WIDTH), np.uint8)
        for second in range(seconds):
            for number in range(PICTURES_PER_SECOND):
                picture[:HEIGHT] = (second * 7 + number + np.arange(WIDTH)) % 220 + 16
                picture[HEIGHT:] = 64 + second % 128
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, "yuv420p")))
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = second * SAMPLE_RATE
            container.mux(sound.encode(frame))
        container.mux([*pictures.encode(), *sound.encode()])


def peak_megabytes(command: list[str]) -> tuple[int, int]:
    """Largest resident set of one process of a command, and of all at once."""
    largest = together = 0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        while process.poll() is None:
            sizes = [_resident(member) for member in _group(process.pid)]
            largest = max([largest, *(peak for peak, _ in sizes)])
            together = max(together, sum(now for _, now in sizes))
            time.sleep(0.05)
        if process.returncode:
            errors.seek(0)
            sys.exit(errors.read().decode())
    return round(largest * 1024 / 1e6), round(together * 1024 / 1e6)


def _group(leader: int) -> list[Path]:
    """The folders in /proc of a group's processes."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(state[2]) == leader:
                members.append(folder)
    return members


def _resident(process: Path) -> tuple[int, int]:
    """Largest so far and now, kB."""
    with suppress(OSError):
        lines = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        if "VmHWM" in lines:  # a process that has ended and waits to be asked has none
            return int(lines["VmHWM"].split()[0]), int(lines["VmRSS"].split()[0])
    return 0, 0


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--videos", type=Path, default=CLIPS, help="folder of videos to cut clips from")
    parser.add_argument("--minutes", type=int, nargs="*", default=[1, 90], help="lengths of one video")
    parser.add_argument("--clips", type=int, nargs="*", default=[100, 1000], help="numbers of clips, two workers")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for minutes in arguments.minutes:
            source = folder / f"{minutes} minutes"
            (source / "long").mkdir(parents=True)
            write_long_video(source / "long" / "video.mp4", 60 * minutes)
            rows.append(_row(f"one video of {minutes} minutes", source, 1))
        for clips in arguments.clips:
            source = folder / f"{clips} clips"
            write_short_clips(source, clips, arguments.videos)
            rows.append(_row(f"{clips} clips of 2 seconds", source, 2))
    publish("peak memory of vidfit extract, MB", rows, arguments.json)


def _row(what: str, source: Path, workers: int) -> dict[str, str | int]:
    command = extract_command(source, source.with_suffix(".features"), workers)
    largest, together = peak_megabytes([*command, "--split", "train=1"])
    return {"what": what, "workers": workers, "largest process": largest, "all processes": together}


if __name__ == "__main__":
    main()
