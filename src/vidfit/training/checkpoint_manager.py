"""Which checkpoints a training keeps, and from which one it resumes.

    last.safetensors        from the newest validation
    previous.safetensors    from the validation before, in case the last one is damaged
    between.safetensors     written now and then since the last validation, and when the training stops

A validation's checkpoint is written as `between` and then renamed to `last`. So at every moment the newest whole file
is known. Resuming from any of them ends with the same weights, bit for bit. The price is disk space: three times the
weights and their moments, four times while one is written. After the training only `last` stays.

All ranks call these functions together. Rank 0 writes, and each reads.
"""

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vidfit import distributed
from vidfit.errors import ModelFileError
from vidfit.training.checkpoint import MemberInfo, read_member, save_member

LAST = "last.safetensors"
PREVIOUS = "previous.safetensors"
BETWEEN = "between.safetensors"
CHECKPOINTS = (BETWEEN, LAST, PREVIOUS)
"""The newest first."""

Checkpoint = tuple[Path, MemberInfo, dict[str, Tensor], dict[str, object]]
"""File, description, tensors, and the training state."""


class Checkpoints:
    """The checkpoints of one training.

    Arguments:
        directory: the member's folder.
        log: called with one line when a checkpoint is damaged.
    """

    def __init__(self, directory: Path, log: Callable[[str], None]) -> None:
        self._directory, self._log = directory, log

    def save(self, info: MemberInfo, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Write a checkpoint; it is the newest from now on.

        Raises:
            OutputError: it cannot be written. Those before are unchanged.
        """
        distributed.on_rank_0(lambda: save_member(self._directory / BETWEEN, info, tensors, **state))

    def promote(self) -> None:
        """Rename `between` to `last`, and `last` to `previous`."""
        distributed.on_rank_0(self._promote)

    def _promote(self) -> None:
        last = self._directory / LAST
        if last.exists():
            os.replace(last, self._directory / PREVIOUS)
        os.replace(self._directory / BETWEEN, last)

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None if there is no file at all. Damaged ones are reported and renamed.

        Raises:
            ModelFileError: there are checkpoints, and all are damaged.
        """
        found: Checkpoint | None = None

        def look() -> Path | None:
            nonlocal found
            found = self._newest()
            return found and found[0]

        path = distributed.on_rank_0(look)
        return found or (path and (path, *read_member(path)))

    def _newest(self) -> Checkpoint | None:
        damaged: list[Path] = []
        problem = ""
        for path in (self._directory / name for name in CHECKPOINTS):
            if not path.exists():
                continue
            try:
                info, tensors, state = read_member(path)
            except ModelFileError as error:
                damaged.append(path)
                problem = problem or str(error)
                continue
            for bad in damaged:
                aside = bad.rename(bad.with_suffix(".damaged"))
                self._log(f"{bad}: damaged, renamed to {aside.name}; resuming from {path.name}")
            return path, info, tensors, state
        if damaged:
            raise ModelFileError(f"{problem}; or remove {self._directory} to start over")
        return None

    def go_back(self) -> None:
        """Make the checkpoint of the last validation the newest."""
        self._remove(BETWEEN)

    def finish(self) -> None:
        """Keep only `last`."""
        self._remove(BETWEEN, PREVIOUS)

    def _remove(self, *names: str) -> None:
        def remove() -> None:
            for name in names:
                (self._directory / name).unlink(missing_ok=True)

        distributed.on_rank_0(remove)
