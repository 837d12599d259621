"""Processes that die or take too long."""

import asyncio
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from vidfit.errors import DataError, ModelFileError
from vidfit.export.metadata import parse_metadata, read_header
from vidfit.serving import labelling
from vidfit.serving.labelling import Labellers


class Mortal:
    """Stands for a process that dies with each of the first videos."""

    deaths = 0

    def __init__(self, *arguments: object) -> None:
        self.alive = True

    async def start(self) -> None:
        pass

    async def label(self, model: str, video: Path) -> dict:
        if Mortal.deaths:
            Mortal.deaths -= 1
            raise BrokenProcessPool
        return {"labels": [model]}

    def kill(self) -> None:
        pass


async def labelled(labellers: Labellers) -> dict:
    await labellers.start()
    try:
        return await labellers.label("videos", Path("clip.mp4"))
    finally:
        labellers.stop()


def test_a_video_is_tried_twice_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labelling, "_Worker", Mortal)
    for deaths, replaced in ((0, 0), (1, 1), (2, 2)):
        Mortal.deaths = deaths
        labellers = Labellers({}, 1, 10, 10)
        if deaths < 2:
            assert asyncio.run(labelled(labellers)) == {"labels": ["videos"]}
        else:
            with pytest.raises(DataError, match="video: crashes the decoder"):
                asyncio.run(labelled(labellers))
        assert labellers.replaced == replaced


def test_a_video_that_takes_too_long_ends_its_process(videos_model: Path, clip: Path):
    checksum = parse_metadata(videos_model, read_header(videos_model).metadata).crc32c
    labellers = Labellers({"videos": (videos_model, checksum)}, 1, 10, 0.001)

    async def label() -> None:
        await labellers.start()
        process = labellers._workers[0]._process
        with pytest.raises(DataError, match=r"video: takes longer than 0.001 s"):
            await labellers.label("videos", clip)
        for _ in range(200):
            await asyncio.sleep(0.1)
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return
        raise AssertionError("the process is still there")

    asyncio.run(label())


def test_a_model_that_has_changed_is_refused(videos_model: Path):
    labellers = Labellers({"videos": (videos_model, "00000000")}, 1, 10, 10)
    with pytest.raises(ModelFileError, match=r"videos.onnx: has changed since the server started"):
        asyncio.run(labellers.start())
