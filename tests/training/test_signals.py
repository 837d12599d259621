"""A signal never interrupts half a step, and what is done is kept."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.training.toy import alike, go
from vidfit.features.loader import Batches
from vidfit.training import validation
from vidfit.training.checkpoint import read_member
from vidfit.training.checkpoint_manager import BETWEEN
from vidfit.training.signals import Stopping
from vidfit.training.train_step import TrainStep


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """A shell's background jobs inherit that SIGINT is ignored, and the tests may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    ("moment", "call", "step"),
    # In the eighth step; in the second validation, at its second batch; as the second epoch begins, after six steps.
    [((TrainStep, "__call__"), 8, 8), ((validation, "predict"), 6, 10), ((Batches, "epoch"), 5, 6)],
    ids=["step", "validation", "reading"],
)
def test_a_signal_leaves_a_checkpoint_of_the_step(
    corpus: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    moment: tuple[object, str],
    call: int,
    step: int,
):
    calls, function = 0, getattr(*moment)

    def signalled(*arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            for _ in range(2):  # launchers repeat it
                os.kill(os.getpid(), number)
        return function(*arguments)

    told = []
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(*moment, signalled)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
            go(corpus, tmp_path, log=told.append)
    if number != signal.SIGINT:
        assert caught.value.args == (128 + number,)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
    assert read_member(tmp_path / BETWEEN)[0].step == step
    assert told == [f"stopped after step {step}, which is kept"]
    go(corpus, tmp_path)
    assert alike(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_is_to_be_ignored_is(number: int):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Stopping() as stopping, stopping.held():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


def test_a_thread_may_train():
    entered = []

    def work() -> None:
        with Stopping() as stopping, stopping.held():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered
