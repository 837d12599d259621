"""Fit a trained run to any number of bytes: candidates, the search over them, the frontier."""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, total steps)."""


def silent(what: str, done: int, total: int) -> None:
    """An `OnProgress` that shows nothing."""
