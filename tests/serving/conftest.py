"""Servers as users start them, and small models for them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.export.members import member
from tests.serving.models import write_video_model
from tests.videos.making import BLUE, RED, by_second, frames_at, tone, write
from vidfit.export.graph import PackedMember, write_graph

TOKEN = "secret"


class Running(NamedTuple):
    """A server, its address, a client that has its token, its folder for temporary files, and its log."""

    process: subprocess.Popen
    url: str
    client: httpx.Client
    temporary: Path
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[Running]:
    """`vidfit serve` on a free port."""
    log, temporary = folder / "log.jsonl", folder / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "vidfit", "serve", *map(str, arguments), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(temporary), "VIDFIT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    with (folder / "log.jsonl").open("w") as file:
        process = subprocess.Popen(command, stderr=file, env=environment)
    try:
        port = wait_until_ready(process, log)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120) as client:
            yield Running(process, url, client, temporary, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_ready(process: subprocess.Popen, log: Path) -> int:
    """The port of a server that has just been started."""
    while True:
        for line in log.read_text().splitlines(keepends=True):
            if line.endswith("\n") and '"ready"' in line:
                return json.loads(line)["port"]
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def features_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file that takes features only, with frame probabilities."""
    path = tmp_path_factory.mktemp("features") / "features.onnx"
    write_graph(path, [PackedMember(member("frames max"), 1.0)], 10**6, frame_probabilities=True)
    return path


@pytest.fixture(scope="session")
def videos_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file that labels videos."""
    return write_video_model(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def one_file_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file that carries its extractor."""
    return write_video_model(tmp_path_factory.mktemp("one-file"), with_extractor=True)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of four seconds."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write(path, by_second(RED, RED, BLUE, BLUE), frames_at(4, 4), tone(400, 4))


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, videos_model: Path, features_model: Path, one_file_model: Path
) -> Iterator[Running]:
    """Labels videos of at most 10 s and 1 MB in one process; three more may wait. Its models are `videos`, `plain` and
    `one-file`.
    """
    models = (videos_model, f"plain={features_model}", f"one-file={one_file_model}")
    limits = ("--workers", 1, "--queue", 3, "--max-video", "1MB", "--max-seconds", 10)
    with running(tmp_path_factory.mktemp("server"), *models, *limits) as found:
        yield found
