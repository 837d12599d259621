"""Embeddings of a video, batch by batch."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np

from vidfit.videos.embed import _Batches

SIZE = 1000


def batches() -> Any:
    """Of a model whose embedding is its input, over and over."""
    return _Batches(
        SimpleNamespace(  # type: ignore[arg-type]
            backbone=SimpleNamespace(embedding_size=SIZE),
            run=lambda values: np.repeat(np.array(values, np.float32)[:, None], SIZE, 1),
        )
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
