"""Where the real data and the reference vectors are, and a skip with a reason where they are not."""

import os
from pathlib import Path

import pytest

from tests.corpus import write_corpus, write_recipe
from vidfit import load_recipe, run

ROOT = Path(__file__).resolve().parent.parent


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found at {folder}; set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the reference vectors (`VIDFIT_GOLDEN`, by default ../shared/golden)."""
    return _folder("VIDFIT_GOLDEN", ROOT.parent / "shared" / "golden", "reference vectors")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets (`VIDFIT_DATA`, by default ../shared/data)."""
    return _folder("VIDFIT_DATA", ROOT.parent / "shared" / "data", "real data")


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
