"""Where the real data and the reference vectors are, and a skip with a reason where there are none by default."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.corpus import write_corpus, write_recipe
from vidfit import load_recipe, run
from vidfit.cli import main

Call = Callable[..., tuple[int, str, str]]


def call(*arguments: object) -> int:
    """Runs the command in this process; gives the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vidfit", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0
    return 0


# How long an example takes is no property of the code that is tested.
settings.register_profile("vidfit", deadline=None)
settings.load_profile("vidfit")

# What nohup ignores, the command ignores too; tests close terminals, also under nohup.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# They take longest. Begun last, they would leave the other processes without work.
FIRST = (
    "test_ranks.py",
    "test_killed_runs.py",
    "test_extract.py",
    "test_cli_process.py",
    "test_server.py",
    "test_fit.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(os.environ.get("VIDFIT_GOLDEN", SHARED / "golden"))
DATA = Path(os.environ.get("VIDFIT_DATA", SHARED / "data"))


def _existing(folder: Path, variable: str, what: str) -> Path:
    if not folder.is_dir() or not any(folder.iterdir()):
        # Who names a folder wants the tests to run: to skip them would look like success.
        leave = pytest.fail if variable in os.environ else pytest.skip
        leave(f"{what} not found at {folder}; set {variable} to their folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of shards lies in a folder of the tests' own, in processes that they start too."""
    folder = tmp_path_factory.mktemp("user-cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """No test cuts the power, and thousands of files would wait for the disk. `test_files.py` tests that it is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def library_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's log as it is without a command: one that a test runs in this process shows it its own way."""
    log = logging.getLogger("vidfit")
    for name, value in {"handlers": [], "propagate": True, "level": logging.NOTSET}.items():
        monkeypatch.setattr(log, name, value)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the reference vectors (`VIDFIT_GOLDEN`, by default ../shared/golden)."""
    return _existing(GOLDEN, "VIDFIT_GOLDEN", "reference vectors")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets (`VIDFIT_DATA`, by default ../shared/data)."""
    return _existing(DATA, "VIDFIT_DATA", "real data")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small learnable corpus (see tests/corpus.py); read only."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A finished run of the small corpus; read only."""
    folder = tmp_path_factory.mktemp("finished")
    run(load_recipe(write_recipe(folder, corpus)), folder / "run")
    return folder / "run"


@pytest.fixture
def recipe_file(corpus: Path, tmp_path: Path) -> Path:
    """The recipe of the small corpus."""
    return write_recipe(tmp_path, corpus)


@pytest.fixture
def vidfit(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs the command; gives exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = call(*arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return run
