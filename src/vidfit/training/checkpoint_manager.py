"""Which checkpoints a training keeps, and which of them it goes on from.

    last.safetensors        of the newest validation
    previous.safetensors    of the validation before, should the last one turn out to be damaged
    between.safetensors     of now and then since the last validation, and of where the training was stopped

A validation's checkpoint is written as `between` and then takes the place of `last`, so at every moment one whole file
is the newest. Whichever is gone on from, the training ends with the same bits. The price is room: three times the
weights and their moments, and a fourth while one is written. Once the training is done, only `last` stays.

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
"""File, description, tensors, and where the training stood."""


class Checkpoints:
    """The checkpoints of one training.

    Arguments:
        directory: the member's folder.
        say: told in one line what is wrong with one and what is done about it.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory, self._say = directory, say

    def save(self, info: MemberInfo, tensors: dict[str, Tensor], state: dict[str, object]) -> None:
        """Write a checkpoint, the newest from now on.

        Raises:
            OutputError: it cannot be written; those before are as they were.
        """
        distributed.once(lambda: save_member(self._directory / BETWEEN, info, tensors, **state))

    def promote(self) -> None:
        """Make the newest checkpoint the last one."""
        distributed.once(self._promote)

    def _promote(self) -> None:
        last = self._directory / LAST
        if last.exists():
            os.replace(last, self._directory / PREVIOUS)
        os.replace(self._directory / BETWEEN, last)

    def newest(self) -> Checkpoint | None:
        """The newest sound checkpoint; None where there is none at all. Damaged ones are told and set aside.

        Raises:
            ModelFileError: there are checkpoints, and all of them are damaged.
        """
        found: Checkpoint | None = None

        def look() -> Path | None:
            nonlocal found
            found = self._newest()
            return found and found[0]

        path = distributed.once(look)
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
                self._say(f"{bad}: is damaged, so it was renamed {aside.name}; going on from {path.name}")
            return path, info, tensors, state
        if damaged:
            raise ModelFileError(f"{problem}; or remove {self._directory} to begin anew")
        return None

    def go_back(self) -> Checkpoint | None:
        """The checkpoint of the last validation; None where there is none."""
        self._remove(BETWEEN)
        return self.newest()

    def finish(self) -> None:
        """Leave only the last."""
        self._remove(BETWEEN, PREVIOUS)

    def _remove(self, *names: str) -> None:
        def remove() -> None:
            for name in names:
                (self._directory / name).unlink(missing_ok=True)

        distributed.once(remove)
