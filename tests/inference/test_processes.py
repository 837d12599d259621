"""One loaded model in many processes and threads: after a fork, after pickling, in workers."""

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import vidfit
from tests.inference.test_predictor import arrays, edited, set_label
from vidfit.errors import ModelFileError
from vidfit.inference.predictor import Predictor

MODELS = ("model.onnx", "members/lstm")
PATIENCE = 120  # seconds, after which a child hangs

loaded: Predictor | None = None


def answer(model: Predictor) -> np.ndarray:
    frames, num_frames, _ = arrays()
    return model.predict(frames, num_frames)


def answer_of_loaded(place: int) -> np.ndarray:
    """In a pool's worker, which has inherited the model."""
    assert loaded
    return answer(loaded)


def set_loaded(model: Predictor) -> None:
    global loaded
    loaded = model


class Answers(Dataset):
    def __init__(self, model: Predictor) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int) -> np.ndarray:
        return answer(self.model)


@pytest.fixture(params=MODELS)
def model(finished: Path, request: pytest.FixtureRequest) -> Predictor:
    """Loaded, with threads that have run."""
    model = vidfit.load(finished / request.param, threads=2, batch_size=1, parallel_batches=2)
    answer(model)
    return model


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes(model: Predictor, method: str):
    """The pool inherits the model with 'fork', and is sent it with 'spawn'."""
    with multiprocessing.get_context(method).Pool(1, set_loaded, (model,)) as pool:
        for found in pool.map_async(answer_of_loaded, range(2)).get(PATIENCE):
            np.testing.assert_allclose(found, answer(model), atol=1e-6)


def test_workers_of_a_data_loader(model: Predictor):
    loader = DataLoader(
        Answers(model), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=PATIENCE
    )
    found = list(loader)
    assert len(found) == 4
    np.testing.assert_allclose(torch.stack(found), np.stack([answer(model)] * 4), atol=1e-6)


def test_a_pool_of_threads(model: Predictor):
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(answer, [model] * 8):
            np.testing.assert_allclose(found, answer(model), atol=1e-6)


def in_a_child(work: Callable[[], Any]) -> int:
    """The exit code of a forked child that does something and leaves as Python does; fails where it hangs."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(PATIENCE)
    if child.is_alive():
        child.kill()
        child.join()
        pytest.fail("the child hangs")
    assert child.exitcode is not None
    return child.exitcode


def test_threads_of_a_forked_worker(model: Predictor):
    """As a web server's: each worker answers from several threads, and none has used the model before."""

    def work() -> None:
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(answer, [model] * 8))) == 8

    assert in_a_child(work) == 0


def test_a_fork_of_a_fork(model: Predictor):
    def work() -> None:
        answer(model)
        assert in_a_child(lambda: answer(model)) == 0

    assert in_a_child(work) == 0


def test_a_forked_child_can_drop_the_model(finished: Path):
    """To free an inherited session would wait for threads that are not there."""
    models = [vidfit.load(finished / "model.onnx", threads=2)]
    answer(models[0])
    assert in_a_child(models.clear) == 0


def test_a_forked_process_that_never_uses_the_model_ends(finished: Path):
    model = vidfit.load(finished / "model.onnx", threads=2)
    answer(model)
    script = os.fork()
    if script == 0:
        del model
        os.execv("/bin/true", ["true"])
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(script, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(script, signal.SIGKILL)
            pytest.fail("the child hangs")
        time.sleep(0.01)


def test_a_pickle_holds_a_path_and_no_weights(model: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    content = pickle.dumps(model)
    assert len(content) < 3000
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(content)
    assert (copy.spec, copy.vocabulary, copy.window) == (model.spec, model.vocabulary, model.window)
    np.testing.assert_array_equal(answer(copy), answer(model))


def test_a_pickle_of_a_relative_path_works_elsewhere(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(finished)
    contents = [pickle.dumps(vidfit.load(name)) for name in MODELS]
    monkeypatch.chdir(tmp_path)
    for content in contents:
        answer(pickle.loads(content))


@pytest.fixture(params=MODELS)
def copied(finished: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A model file that may be changed."""
    source = finished / request.param
    source = source / "best.safetensors" if source.is_dir() else source
    return Path(shutil.copy(source, tmp_path / "model"))


@pytest.mark.parametrize("change", ["another", "damaged", "gone"])
def test_a_pickle_of_a_file_that_has_changed_is_refused(finished: Path, copied: Path, change: str):
    content = pickle.dumps(vidfit.load(copied))
    assert answer(pickle.loads(content)).shape
    message = alter(copied, finished, change)
    with pytest.raises(ModelFileError, match=message):
        pickle.loads(content)


@pytest.mark.parametrize("change", ["another", "damaged", "gone"])
def test_a_fork_after_its_file_has_changed_is_refused(finished: Path, tmp_path: Path, change: str):
    path = Path(shutil.copy(finished / "model.onnx", tmp_path / "model.onnx"))
    model = vidfit.load(path)
    before = answer(model)
    message = alter(path, finished, change)

    def work() -> None:
        with pytest.raises(ModelFileError, match=message):
            answer(model)

    assert in_a_child(work) == 0
    np.testing.assert_array_equal(answer(model), before)  # the parent has it in memory


def alter(path: Path, finished: Path, change: str) -> str:
    """Change a file; the message to expect."""
    if change == "gone":
        path.unlink()
        return "model.*: no such"
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        return "model.*: (was altered|not a readable member)"
    other = path.with_name("other")
    if path.read_bytes()[8:9] == b"{":
        shutil.copy(finished / "members" / "mean" / "best.safetensors", other)
    else:
        edited(finished / "model.onnx", other, set_label)
    os.replace(other, path)
    return "model.*: has changed since this model was loaded from it; load it again"
