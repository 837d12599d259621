"""Notice when a training diverges: a loss or a weight that is not finite. No checkpoint holds such weights."""

import math

import torch
from torch import Tensor, nn

from vidfit.errors import RecipeError
from vidfit.training.state import TrainingState

MOST_HALVINGS = 10
# On a GPU, reading a loss waits for the device, so read several together.
_LOSSES = 16


class DivergedError(RecipeError):
    """The loss or a weight of a member in training is not finite."""


class FiniteCheck:
    """Collects losses and reads them now and then.

    Arguments:
        member: name for messages.
        state: of the training; its `loss` is set at each reading.
    """

    def __init__(self, member: str, state: TrainingState) -> None:
        self._member, self._state = member, state
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Take the loss of the step that was just made.

        Raises:
            DivergedError: a loss since the last reading is not finite.
        """
        self._losses.append(loss)
        if loss.device.type == "cpu" or len(self._losses) == _LOSSES:
            self.read()

    def read(self) -> None:
        """Read all losses collected.

        Raises:
            DivergedError: one is not finite.
        """
        if not self._losses:
            return
        losses, first = torch.stack(self._losses).tolist(), self._state.step - len(self._losses) + 1
        self._losses.clear()
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise DivergedError(f"member {self._member}: the loss is {loss} at step {step}")
        self._state.loss = losses[-1]

    def check(self, model: nn.Module) -> None:
        """Read all losses, and look at every weight.

        Raises:
            DivergedError: a loss or a weight is not finite.
        """
        self.read()
        for name, tensor in model.state_dict().items():
            # A sum is one pass without a copy, and it is not finite if a term is not.
            if not tensor.sum().isfinite():
                raise DivergedError(f"member {self._member}: {name} is not finite after step {self._state.step}")
