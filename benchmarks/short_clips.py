"""Many short clips for benchmarks of `vidfit extract`, and the command that extracts them."""

import sys
from pathlib import Path
from typing import Any

import av

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"
_SUFFIXES = {".mp4", ".webm", ".mkv"}


def write_short_clips(folder: Path, count: int, videos: Path = CLIPS, seconds: float = 2.0) -> None:
    """Fill `folder/some` and `folder/more` with the first seconds of some videos, over and over until there are enough.

    Packets are copied, nothing is encoded anew. The two folders become the labels.
    """
    found = sorted(path for path in videos.rglob("*") if path.suffix in _SUFFIXES)
    if not found:
        sys.exit(f"{videos}: holds no videos; name a folder with --videos")
    for number in range(count):
        source = found[number % len(found)]
        target = folder / ("some", "more")[number % 2] / f"{number:05d}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        _cut(source, target, seconds)


def _cut(source: Path, target: Path, seconds: float) -> None:
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        streams: dict[int, Any] = {
            stream.index: part.add_stream_from_template(stream)
            for stream in (*whole.streams.video[:1], *whole.streams.audio[:1])
        }
        for packet in whole.demux([whole.streams[index] for index in streams]):
            if packet.pts is None or packet.pts * packet.time_base >= seconds:
                continue
            packet.stream = streams[packet.stream.index]
            part.mux(packet)


def extract_command(sources: Path, output: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "vidfit", "extract", str(sources), "-o", str(output), "--workers", str(workers)]
