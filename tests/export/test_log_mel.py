"""The log-mel of a graph is that of `videos/sound.py`, which is compared with AudioSet's own code elsewhere."""

import numpy as np
import pytest

from tests.export.exporting import session
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.log_mel import log_mel
from vidfit.videos.sound import log_mel as by_numpy


def sounds(samples: int) -> np.ndarray:
    """Noise from quiet to loud, tones, silence."""
    random, time = np.random.default_rng(0), np.arange(samples) / 16000
    noise = random.normal(size=(3, samples)) * np.array([[0.001], [0.05], [0.3]])
    tones = np.sin(2 * np.pi * np.array([[130.0], [1000.0], [7600.0]]) * time)
    return np.concatenate([noise, tones, np.zeros((1, samples))]).astype(np.float32)


@pytest.mark.parametrize(("samples", "offset"), [(15600, 0.001), (15360, 0.01), (400, 0.001)])
def test_the_graph_gives_numpys_log_mel(samples: int, offset: float):
    graph = GraphWriter()
    frames = 1 + (samples - 400) // 160
    graph.output(log_mel(graph.input("sound", np.float32, ["B", samples]), samples, offset), "bands", ["B", frames, 64])
    (found,) = session(graph).run(None, {"sound": sounds(samples)})
    # YAMNet reads it in steps of 0.048.
    np.testing.assert_allclose(np.asarray(found), by_numpy(sounds(samples), offset), atol=0.024)


def test_its_matrices_are_not_stored():
    graph = GraphWriter()
    graph.output(log_mel(graph.input("sound", np.float32, ["B", 15600]), 15600, 0.001), "bands", ["B", 96, 64])
    assert len(graph.serialise()) < 4000
