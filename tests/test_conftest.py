"""Data that are not there: a reason to skip, but a failure where somebody named their folder."""

from pathlib import Path

import pytest

from tests.conftest import _existing


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_that_was_named_must_hold_something(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("VIDFIT_DATA", raising=False)
    with pytest.raises(pytest.skip.Exception, match="set VIDFIT_DATA"):
        _existing(tmp_path / folder, "VIDFIT_DATA", "real data")
    monkeypatch.setenv("VIDFIT_DATA", str(tmp_path / folder))
    with pytest.raises(pytest.fail.Exception, match="real data not found at"):
        _existing(tmp_path / folder, "VIDFIT_DATA", "real data")
