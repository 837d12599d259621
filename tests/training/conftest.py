"""What several tests of training compare with."""

from pathlib import Path

import pytest

from tests.training.toy import go


@pytest.fixture(scope="session")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was never stopped; read only."""
    folder = tmp_path_factory.mktemp("whole")
    go(corpus, folder)
    return folder
