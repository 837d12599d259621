"""A model in training that can be saved at any step and resumed: weights, moments, average, and where it stands."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel

from vidfit import distributed
from vidfit.errors import ModelFileError
from vidfit.features.loader import Batches
from vidfit.training.averaging import AveragingConfig, averaged_copy
from vidfit.training.checkpoint import (
    BEST,
    MemberInfo,
    joined_parts,
    read_member,
    separate_parts,
    starting_weights,
)
from vidfit.training.checkpoint_manager import BETWEEN, Checkpoints
from vidfit.training.config import TrainingConfig
from vidfit.training.divergence import FiniteCheck
from vidfit.training.epochs import label_frequencies
from vidfit.training.state import TrainingState
from vidfit.training.train_step import TrainStep


class ResumableModel:
    """Starts from the newest checkpoint in a folder. If there is none: from the recipe's `start`, or initial weights.

    Arguments:
        info: what to train.
        config: how.
        batches: this rank's training videos; their label frequencies start an untrained head.
        directory: the member's folder.
        seed: of initial weights, sampling and dropout.
        log: called with one line about a damaged checkpoint.

    Raises:
        ModelFileError: the checkpoints are damaged or belong to another model.
    """

    state: TrainingState
    train_step: TrainStep
    finite: FiniteCheck
    average: AveragedModel | None
    """In the second phase."""

    def __init__(
        self,
        info: MemberInfo,
        config: TrainingConfig,
        batches: Batches,
        directory: Path,
        seed: int,
        log: Callable[[str], None],
    ) -> None:
        self._info, self._config, self._batches, self._directory, self._seed = info, config, batches, directory, seed
        self._checkpoints = Checkpoints(directory, log)
        self._start()

    def _start(self) -> None:
        checkpoint = self._checkpoints.newest()
        torch.manual_seed(self._seed)
        self.train_step = TrainStep(self._info.build(), self._config, self._seed)
        model, self.average = self.train_step.model, None
        if checkpoint:
            self.state = self._restore(*checkpoint)
        else:
            self.state = TrainingState()
            if self._config.start:
                model.load_state_dict(starting_weights(self._config.start, self._info, model))
            else:
                model.set_prior(label_frequencies(self._batches, model.classes).to(self.train_step.device))
        self.finite = FiniteCheck(self._info.name, self.state)
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def _restore(
        self, path: Path, saved: MemberInfo, tensors: dict[str, torch.Tensor], state: dict[str, object]
    ) -> TrainingState:
        """Load a checkpoint's weights, moments and average; returns where it stood."""
        if any(getattr(saved, name) != getattr(self._info, name) for name in ("classifier", "spec", "vocabulary")):
            raise ModelFileError(f"{path}: belongs to another model; remove {self._directory} to start over")
        stood = TrainingState(**state)  # type: ignore[arg-type] - JSON of the same class
        weights, moments, average = separate_parts(tensors)
        self.train_step.model.load_state_dict(weights)
        if moments:
            self.train_step.load_moments(moments, stood.step - stood.begun)
        if stood.averaging and self._config.averaging:
            self.average = averaged_copy(self.train_step.model, self._config.averaging)
            self.average.load_state_dict(average)
        if path.name == BETWEEN and stood.validated == stood.step:
            self._checkpoints.promote()  # A kill came between writing and renaming it.
        return stood

    @property
    def averaging(self) -> AveragingConfig | None:
        """How the current phase averages; None in the first phase."""
        return self._config.averaging if self.state.averaging else None

    def after_step(self, loss: torch.Tensor) -> None:
        """Average the weights and check the loss. Save if the last checkpoint is older than the recipe allows.

        Raises:
            DivergedError: a loss is not finite, or a checkpoint was due and a weight is not.
        """
        averaging = self.averaging
        if self.average and averaging and (self.state.due or averaging.method == "ema"):
            self.average.update_parameters(self.train_step.model)
        self.finite.add(loss)
        # All ranks save together, as soon as one is due.
        if distributed.all_sum(time.monotonic() - self._saved_at > 60 * self._config.checkpoint_minutes):
            self.save_between()

    def save_between(self) -> None:
        """Write a checkpoint between validations, unless the newest is of this step.

        Raises:
            DivergedError: a loss or a weight is not finite.
        """
        if self.state.step > self._saved_step:
            self.finite.check(self.train_step.model)
            self._save(self._info.model_copy(update={"step": self.state.step}))

    def save_validated(self, info: MemberInfo) -> None:
        """Write the checkpoint of a validation."""
        self._save(info)
        self._checkpoints.promote()

    def begin_averaging(self, config: AveragingConfig) -> None:
        """Start the second phase from the best weights."""
        best, tensors, _ = read_member(self._directory / BEST)
        self.train_step.model.load_state_dict(tensors)
        self.train_step.reset_optimizer()
        self.average = averaged_copy(self.train_step.model, config)
        state = self.state
        state.averaging, state.begun, state.halvings, state.done = True, state.step, 0, False
        # Save now: the phase may replace the best weights, from which it starts.
        self.save_validated(best)

    def go_back(self) -> None:
        """Return to the last validation, or to the start if there was none."""
        del self.train_step, self.average  # Free their memory before there are new ones.
        self._checkpoints.go_back()
        self._start()

    def finish(self) -> None:
        """Remove the checkpoints that only an unfinished training needs."""
        self._checkpoints.finish()

    def _save(self, info: MemberInfo) -> None:
        average = self.average.state_dict() if self.average else {}
        tensors = joined_parts(self.train_step.model.state_dict(), self.train_step.moments(), average)
        self._checkpoints.save(info, tensors, vars(self.state))
        self._saved_at, self._saved_step = time.monotonic(), self.state.step
