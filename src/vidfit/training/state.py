"""Where a training stands: what a checkpoint remembers besides weights and moments."""

from dataclasses import dataclass
from typing import NamedTuple

from vidfit.features.skipped import Skipped


@dataclass
class TrainingState:
    """Progress of a training. Checkpoints store it as JSON, so its field names are part of their format."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch trained on so far."""
    passed: int = 0
    """Corrupt records skipped in these batches."""
    passed_bytes: int = 0
    skipped: int = 0
    """Corrupt records of a whole epoch."""
    skipped_bytes: int = 0
    loss: float = 0.0
    """Of the last step whose loss was read."""
    due: bool = False
    """Whether a validation follows the step."""
    ends: bool = False
    """Whether the step is the phase's last."""
    validated: int = 0
    """Step of the last validation."""
    stale: int = 0
    """Validations since the best one."""
    best_gap: float = -1.0
    averaging: bool = False
    """Whether this is the second phase."""
    begun: int = 0
    """Step at which the phase began."""
    halvings: int = 0
    """How many times the phase's learning rate was halved."""
    done: bool = False
    """Whether the phase is over."""

    def advance(self, position: "Position", validate_every: int) -> None:
        """Count the step on the batch at `position`."""
        self.step, self.epoch, self.batch, self.ends = self.step + 1, position.epoch, position.batch, position.ends
        self.passed, self.passed_bytes = position.skipped.records, position.skipped.bytes
        if self.passed >= self.skipped:
            self.skipped, self.skipped_bytes = self.passed, self.passed_bytes
        self.due = position.ends or self.step % validate_every == 0


class Position(NamedTuple):
    """Where a batch stands among all batches of a phase."""

    epoch: int
    batch: int
    """Counted from 1."""
    skipped: Skipped
    """What was skipped in the epoch so far."""
    ends: bool
    """Whether the batch is the phase's last."""
