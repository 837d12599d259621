"""A server under load: uploads of which half are broken, killed processes, slow and greedy clients, many features.

    python benchmarks/serve.py

starts `vidfit serve` on this machine with a small model of each kind, and asks over plain sockets:

- 200 uploads, 20 at once. Half are broken: no video, cut short, an empty form, no form. Meanwhile two processes that
  label are killed, five clients send a byte a second, five stop in the middle, and others come with a wrong token or a
  body that is too large. A client that is told to wait waits and asks again.
- 10,000 requests with features of 60 frames of 1,024 + 128 bytes, 20 at once, beside the predictor alone.

Every answer is compared with what the library gives. Rows: requests, times, and memory of all the server's processes.
"""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from table import fastest, options, publish

sys.path.insert(0, str(Path(__file__).parents[1]))

import vidfit
from tests.export.members import float_member
from tests.serving.models import write_video_model
from tests.videos.making import BLUE, RED, by_second, frames_at, tone, write
from vidfit.export.graph import PackedMember, write_graph
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.inference.label_files import to_object

SIZES = {"rgb": 1024, "audio": 128}
FRAMES = 60
AT_ONCE = 20
TOKEN = "secret"
SLOW = 5


class Answer(NamedTuple):
    """An HTTP answer and the seconds it took, waits after 429 included."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


def head(path: str, length: int, extra: str = "", token: str = TOKEN) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *filter(None, [extra]), "", ""]).encode()


async def read_answer(reader: asyncio.StreamReader, start: float) -> Answer:
    top = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in top[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(top[0].split()[1]), headers, body, time.perf_counter() - start)


async def ask(port: int, request: bytes, body: bytes, pause: float = 0.0, stop: int | None = None) -> Answer:
    """One request on a connection of its own.

    Arguments:
        pause: seconds after each byte of the body.
        stop: bytes of the body after which no more are sent.
    """
    start = time.perf_counter()
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        if pause:
            for byte in body[:8]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(pause)
        writer.write(body[8 if pause else 0 : stop])
        answer = await read_answer(reader, start)
        writer.close()
        if answer.status != 429:
            return answer
        await asyncio.sleep(float(answer.headers["retry-after"]))


async def uploads(port: int, process: int, clip: bytes, expected: dict[str, Any]) -> tuple[list[Answer], Counter[str]]:
    """The answers to the 200 uploads, and what became of everything."""
    told: Counter[str] = Counter()
    form = (
        b'--edge\r\nContent-Disposition: form-data; name="video"; filename="../../x"\r\n\r\n'
        + clip
        + b"\r\n--edge--\r\n"
    )
    multipart = "Content-Type: multipart/form-data; boundary=edge"
    broken = [
        (b"no video at all", ""),
        (clip[: len(clip) // 5], ""),
        (b"--edge--\r\n", multipart),
        (form[:-9], multipart),
    ]
    jobs = [(form, multipart), (clip, "")] * 50 + broken * 25
    random.Random(0).shuffle(jobs)
    gate, answers = asyncio.Semaphore(AT_ONCE), []

    async def upload(body: bytes, extra: str) -> None:
        async with gate:
            answer = await ask(port, head("/v1/label", len(body), extra), body)
        answers.append(answer)
        good = body in (form, clip)
        right = answer.status == 200 and json.loads(answer.body) == expected if good else answer.status in (400, 422)
        told[("good" if good else "broken") + (", answered right" if right else f", WRONG {answer.status}")] += 1
        if len(answers) in (50, 120):
            killed = labelling_processes(process)[0]
            os.kill(killed, signal.SIGKILL)
            told["labelling processes killed"] += 1

    async def other(name: str, wanted: int, *arguments: Any, **how: Any) -> None:
        answer = await ask(port, *arguments, **how)
        told[name + (f", {wanted}" if answer.status == wanted else f", WRONG {answer.status}")] += 1

    whole, large = head("/v1/label", len(clip)), bytes(1_200_000)
    others = [other("a byte a second", 200, whole, clip, pause=1.0) for _ in range(SLOW)]
    others += [other("stops in the middle", 408, whole, clip, stop=100) for _ in range(SLOW)]
    others += [other("wrong token", 401, head("/v1/label", len(clip), token="x"), clip) for _ in range(20)]
    others += [other("too large", 413, head("/v1/label", len(large)), large) for _ in range(10)]
    await asyncio.gather(*(upload(*job) for job in jobs), *others)
    return answers, told


async def features(port: int, model: Path, count: int) -> tuple[list[Answer], Counter[str]]:
    """The answers to `count` requests by KServe's protocol, tensors as bytes, on kept connections."""
    video = {
        name: np.random.default_rng(0).integers(0, 256, (1, FRAMES, size), np.uint8) for name, size in SIZES.items()
    }
    inputs = [
        {"name": name, "datatype": "UINT8", "shape": list(array.shape), "parameters": {"binary_data_size": array.size}}
        for name, array in video.items()
    ]
    top = json.dumps({"inputs": inputs, "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]})
    body = top.encode() + b"".join(array.tobytes() for array in video.values())
    request = head("/v2/models/features/infer", len(body), f"Inference-Header-Content-Length: {len(top)}")
    expected = vidfit.load(model).predict(video)[0]
    answers: list[Answer] = []
    told: Counter[str] = Counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count // AT_ONCE):
            writer.write(request + body)
            answer = await read_answer(reader, time.perf_counter())
            answers.append(answer)
            tail = answer.body[int(answer.headers["inference-header-content-length"]) :]
            right = answer.status == 200 and np.allclose(np.frombuffer(tail, np.float32), expected, atol=1e-6)
            told["features, answered right" if right else f"features, WRONG {answer.status}"] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return answers, told


def labelling_processes(server: int) -> list[int]:
    tasks = Path(f"/proc/{server}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def megabytes(server: int) -> dict[str, float]:
    """Resident memory of the server, and of its labelling processes together."""

    def resident(process: int) -> float:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        return int(found[1]) / 1000 if found else 0.0

    return {"server MB": resident(server), "labelling MB": sum(map(resident, labelling_processes(server)))}


def row(name: str, answers: list[Answer], seconds: float, memory: dict[str, float]) -> dict[str, Any]:
    taken = np.array([answer.seconds for answer in answers]) * 1000
    p50, p99 = np.percentile(taken, [50, 99])
    times = {"p50 ms": float(p50), "p99 ms": float(p99), "requests/s": len(answers) / seconds}
    return {"requests": f"{len(answers):,} {name}", **times, **memory}


def write_features_model(path: Path) -> Path:
    modalities = tuple(Modality(name=name, size=size) for name, size in SIZES.items())
    member = float_member("mean", FeatureSpec(modalities=modalities)).quantized()
    write_graph(path, [PackedMember(member, 1.0)], 10**8)
    return path


def start(folder: Path, *models: Path) -> tuple[subprocess.Popen, int]:
    """A server and its port."""
    limits = ["--workers", "2", "--queue", "16", "--max-video", "1MB", "--port", "0"]
    command = [sys.executable, "-m", "vidfit", "serve", *map(str, models), *limits]
    log = folder / "log.jsonl"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stderr=file, env={**os.environ, "VIDFIT_TOKEN": TOKEN, "TMPDIR": str(folder)}
        )
    while not (ready := re.search(r'"ready".*"port": (\d+)', log.read_text())):
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.2)
    return process, int(ready[1])


def main() -> None:
    """Run it."""
    parser = options(__doc__ or "")
    parser.add_argument("--requests", type=int, default=10_000, help="requests with features")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos, plain = write_video_model(folder), write_features_model(folder / "features.onnx")
        clip = write(folder / "clip.mp4", by_second(RED, BLUE), frames_at(12, 8), tone(400, 8))
        (labelled,) = vidfit.label(videos, clip)
        expected = {"model": "videos", **{key: it for key, it in to_object(labelled).items() if key != "path"}}
        process, port = start(folder, videos, plain)
        try:
            rows, told = [], Counter[str]()
            begun = time.perf_counter()
            answers, found = asyncio.run(uploads(port, process.pid, clip.read_bytes(), expected))
            rows.append(row("uploads", answers, time.perf_counter() - begun, megabytes(process.pid)))
            told += found
            for part in ("features", "features again"):
                begun = time.perf_counter()
                answers, found = asyncio.run(features(port, plain, arguments.requests // 2))
                rows.append(row(part, answers, time.perf_counter() - begun, megabytes(process.pid)))
                told += found
            left = [it.name for it in folder.glob("vidfit-serve-*/*")]
            process.send_signal(signal.SIGTERM)
            told[f"exit code {process.wait(60)}, {len(left)} files left"] += 1
        finally:
            process.kill()
        rows.append(alone(plain))
    publish("A server under load", rows, arguments.json)
    for what, count in sorted(told.items()):
        print(f"{count:>6,}  {what}")
    if any("WRONG" in what for what in told):
        raise SystemExit(1)


def alone(model: Path) -> dict[str, Any]:
    """The predictor in this process, one video at a time."""
    predictor = vidfit.load(model)
    video = {name: np.zeros((1, FRAMES, size), np.uint8) for name, size in SIZES.items()}
    seconds = fastest(lambda: [predictor.predict(video) for _ in range(100)]) / 100
    times = {"p50 ms": 1000 * seconds, "p99 ms": 1000 * seconds, "requests/s": 1 / seconds}
    return {"requests": "the predictor alone", **times, "server MB": "", "labelling MB": ""}


if __name__ == "__main__":
    main()
