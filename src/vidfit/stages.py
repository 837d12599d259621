"""What is done in a run folder, and from what: the result of each stage with a digest of its inputs.

A stage with the recorded inputs is not done again. So a killed run resumes, and a changed recipe repeats no more than
it must.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from vidfit.errors import OutputError, reason
from vidfit.files import write_text

# Raise it when the same recipe gives another result: a changed default, a changed formula.
FORMAT = 3


class _Stage(BaseModel):
    """What a stage was begun from and, once it is done, its result."""

    inputs: str
    result: Any = None


class Stages:
    """The stages that are done, in a JSON file.

    Arguments:
        path: the file; it appears with the first stage.
        dependent: a file that sums the stages up; it is removed as soon as one is done anew.

    Raises:
        OutputError: there is a file that cannot be read.
    """

    def __init__(self, path: Path, dependent: Path):
        self._path, self._dependent = path, dependent
        self._stages: dict[str, _Stage] = {}
        try:
            self._stages = TypeAdapter(dict[str, _Stage]).validate_python(json.loads(self._path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            pass  # a path that cannot be a folder fails later, when the folder is made
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self._path}: cannot be read ({reason(error)}); choose another run folder, or remove this file and "
                "train again with --overwrite"
            ) from error

    def do(self, stage: str, inputs: Any, outputs: Iterable[Path], work: Callable[[], dict[str, Any]]) -> Any:
        """The result of a stage: the recorded one if it was done from these inputs and its outputs are still there."""
        result = self.recorded(stage, inputs)
        if result is not None and all(path.exists() for path in outputs):
            return result
        # The summary of the old result is wrong from here on, even if the work fails.
        self._dependent.unlink(missing_ok=True)
        self._write(stage, _Stage(inputs=digest(inputs)))
        result = work()
        self._write(stage, _Stage(inputs=digest(inputs), result=result))
        return result

    def recorded(self, stage: str, inputs: Any) -> Any:
        """The result of a stage that was done from these inputs; None where there is none."""
        return self._stages[stage].result if self.begun(stage, inputs) else None

    def begun(self, stage: str, inputs: Any) -> bool:
        """Whether the stage was begun, and from these inputs."""
        return stage in self._stages and self._stages[stage].inputs == digest(inputs)

    def _write(self, name: str, stage: _Stage) -> None:
        self._stages[name] = stage
        document = {name: stage.model_dump(exclude_none=True) for name, stage in self._stages.items()}
        write_text(self._path, json.dumps(document, indent=2) + "\n")


def digest(inputs: Any) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps([FORMAT, inputs], sort_keys=True).encode()).hexdigest()
