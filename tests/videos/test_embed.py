"""Embeddings of a video, batch by batch, and of many in processes that may die."""

import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.videos.making import RED, plain, small_model, write
from vidfit.videos import embed_worker
from vidfit.videos.backbones import find_backbone
from vidfit.videos.embed import _Batches
from vidfit.videos.embed_worker import Job, embed_files
from vidfit.videos.extractor import Settings

SIZE = 1000


def batches() -> Any:
    """Of a model whose embedding is its input, over and over."""
    return _Batches(
        SimpleNamespace(  # type: ignore[arg-type]
            size=SIZE,
            run=lambda values: np.repeat(np.array(values, np.float32)[:, None], SIZE, 1),
        ),
        16,
    )


def test_steps_without_a_picture_are_zero_and_absent():
    collected = batches()
    steps = [*range(2, 40), *range(700, 705)]
    for step in steps:
        collected.add(step, np.float32(step + 1))
    embeddings, present = collected.finish(703)
    expected = np.zeros(703)
    expected[steps[:-2]] = np.array(steps[:-2]) + 1
    np.testing.assert_array_equal(embeddings, np.repeat(expected[:, None], SIZE, 1))
    np.testing.assert_array_equal(present, expected > 0)


def test_a_long_video_is_in_memory_once():
    tracemalloc.start()
    try:
        collected = batches()
        for step in range(10_000):
            collected.add(step, np.float32(step))
        embeddings, _ = collected.finish(10_000)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * embeddings.nbytes
    finally:
        tracemalloc.stop()


def test_a_process_that_dies_costs_the_files_of_that_moment(tmp_path, monkeypatch):
    pools = []

    class CountedPool(ProcessPoolExecutor):
        def __init__(self, *arguments: Any) -> None:
            pools.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(embed_worker, "ProcessPoolExecutor", CountedPool)
    settings = Settings(backbones=(find_backbone(small_model(tmp_path, "colours", "rgb"), "rgb"),))
    video = write(tmp_path / "clip.mp4", lambda time: plain(RED), [0.0])
    jobs = [Job(video, tmp_path / str(number)) for number in range(30)]
    files = embed_files(jobs, settings, 1)
    finished = {next(files)[0]}
    for process in active_children():
        process.kill()
    finished |= {job for job, _ in files}
    assert finished == set(jobs)
    assert len(list(tmp_path.glob("*.npz"))) == 30
    assert len(pools) <= 5
