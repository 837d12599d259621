"""Sums, means and maxima over a video's frames in a graph: against NumPy, whatever else is in the batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.export.exporting import session
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.slots import Slots

SIZE = 5


@pytest.fixture(scope="module")
def run():
    graph = GraphWriter()
    values_BTK = graph.input("values", np.float32, ["videos", "frames", SIZE])
    slots = Slots(graph, values_BTK, graph.input("num_frames", np.int64, ["videos"]))
    exponentials_BTK, largest_BK = slots.exponentials(values_BTK, SIZE)
    results = {
        "sum": slots.sum(values_BTK),
        "mean": slots.mean(values_BTK),
        "max": slots.max(values_BTK, SIZE),
        "largest": largest_BK,
        "exponentials": exponentials_BTK,
        "again": slots.unflatten(values_BTK.reshape(-1, SIZE)),
    }
    for name, value in results.items():
        graph.output(value, name, ["x", "y", "z"] if name in ("exponentials", "again") else ["x", "y"])
    opened = session(graph)

    def run(values: np.ndarray, num_frames: np.ndarray) -> dict[str, np.ndarray]:
        found = opened.run(list(results), {"values": values, "num_frames": num_frames})
        return dict(zip(results, map(np.asarray, found), strict=True))

    return run


@given(videos=st.integers(1, 4), frames=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_results_are_those_of_each_videos_frames(run, videos: int, frames: int, seed: int):
    random = np.random.default_rng(seed)
    values = random.standard_normal((videos, frames, SIZE)).astype(np.float32)
    num_frames = random.integers(1, frames + 1, videos)
    found = run(values, num_frames)
    np.testing.assert_array_equal(found["again"], values)
    for video, length in enumerate(num_frames):
        own_TK = values[video, :length].astype(np.float64)
        np.testing.assert_allclose(found["sum"][video], own_TK.sum(0), atol=1e-5)
        np.testing.assert_allclose(found["mean"][video], own_TK.mean(0), atol=1e-5)
        for name in ("max", "largest"):
            np.testing.assert_array_equal(found[name][video], own_TK.max(0).astype(np.float32))
        exact_TK = np.exp(own_TK - own_TK.max(0))
        np.testing.assert_allclose(found["exponentials"][video, :length], exact_TK, rtol=1e-5)
    assert (found["exponentials"] <= 1).all()


def test_sums_are_alike_to_the_last_digit_whatever_the_batch(run):
    """A difference in the last digit is enough: a rounding that follows makes a step of it."""
    random = np.random.default_rng(1)
    values, lengths = random.standard_normal((30, 41, SIZE)).astype(np.float32), random.integers(1, 42, 30)
    together = run(values, lengths)["sum"]
    for video, length in enumerate(lengths):
        alone = run(values[video : video + 1, :length], lengths[video : video + 1])["sum"]
        np.testing.assert_array_equal(alone[0], together[video])
