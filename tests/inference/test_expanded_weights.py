"""`vidfit.load(path, expand_weights=True)`: one byte per weight in memory, whatever the file's bits."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import vidfit
from tests.export.members import RGB, SPEC, arrays, member
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.web_model import write_web_model
from vidfit.inference.predictor import Predictor
from vidfit.quantization.uniform import QuantScheme


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose descriptor is long enough for n-bits products, in 4 bits."""
    path = tmp_path_factory.mktemp("packed") / "model.onnx"
    write_graph(path, [PackedMember(member("wide", RGB, QuantScheme(bits=4, granularity="channel")), 1.0)], 10**9)
    return path


def predicted(model: Predictor, videos: int = 5) -> np.ndarray:
    inputs = arrays(videos, 7, spec=model.spec)
    return model.predict({it.name: inputs[it.name] for it in model.spec.modalities}, inputs["num_frames"])


def test_probabilities_are_those_of_a_web_model(packed: Path):
    write_web_model(packed, packed.with_name("web.onnx"))
    expanded = predicted(vidfit.load(packed, expand_weights=True))
    np.testing.assert_array_equal(expanded, predicted(vidfit.load(packed.with_name("web.onnx"))))
    as_stored = predicted(vidfit.load(packed))
    assert 0 < np.abs(expanded - as_stored).max() < 3e-3


def test_a_video_alone_has_the_same_probabilities(packed: Path):
    together, alone = (vidfit.load(packed, expand_weights=True, batch_size=size) for size in (5, 1))
    np.testing.assert_allclose(predicted(together), predicted(alone), atol=1e-5, rtol=0)


def test_a_pickled_model_stays_expanded(packed: Path):
    model = vidfit.load(packed, expand_weights=True)
    np.testing.assert_array_equal(predicted(pickle.loads(pickle.dumps(model))), predicted(model))


def test_a_file_of_8_bits_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "model.onnx"
    write_graph(path, [PackedMember(member("netvlad", SPEC), 1.0)], 10**9)
    as_stored, expanded = (predicted(vidfit.load(path, expand_weights=expand)) for expand in (False, True))
    np.testing.assert_array_equal(expanded, as_stored)
