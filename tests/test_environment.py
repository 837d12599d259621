"""Importing vidfit changes no environment variable; the command line sets a few before PyTorch is loaded."""

import os
import subprocess
import sys

import pytest

from vidfit import environment

WITHOUT = {name: value for name, value in os.environ.items() if name not in environment.DEFAULTS}


def printed(code: str, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=WITHOUT | variables, capture_output=True, text=True, check=True
    ).stdout


def test_importing_vidfit_changes_no_environment_variable():
    code = "import os; before = dict(os.environ); import vidfit; vidfit.load; vidfit.run; print(before == os.environ)"
    assert printed(code) == "True\n"


def test_the_command_line_sets_variables_before_torch_is_loaded():
    code = (
        "import os, sys; from vidfit.cli import entry; loaded = 'torch' in sys.modules;"
        "entry.app = lambda: None; entry.main();"
        "print(loaded, *(os.environ[name] for name in entry.environment.DEFAULTS))"
    )
    assert printed(code).split() == ["False", *environment.DEFAULTS.values()]


@pytest.mark.parametrize("name", environment.DEFAULTS)
def test_a_variable_that_is_set_stays(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "yours")
    environment.set_defaults()
    assert os.environ[name] == "yours"


def test_a_wait_policy_of_yours_is_not_overridden(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    environment.set_defaults()
    assert "GOMP_SPINCOUNT" not in os.environ
