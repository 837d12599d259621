"""Train one member: read, sample frames, step, validate now and then, keep the best and the last.

Two phases: training proper and, where the recipe asks for it, averaging from the best weights on (see `averaging.py`).

Everything random in step `n` follows from the seed and `n` alone (`step.py`), so that a run killed anywhere and started
again from its newest checkpoint (`rotation.py`) ends with the same weights, to the bit, as one that was never stopped.
The price is a reseeding a step (microseconds) and, on resuming, reading past the part of the epoch that was trained on
already; a cache that is read shuffled is begun in the middle.

No checkpoint has a weight that is not a number: the losses tell, and before each checkpoint the weights themselves.

Several ranks train one member together: each has the same weights, reads its share of the videos and takes part in
every step, with an empty batch where its share is at an end and another's is not. Rank 0 writes.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from vidfit import distributed
from vidfit.errors import ModelFileError, RecipeError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batch import Batch, sent
from vidfit.features.loader import Batches
from vidfit.features.skipped import Skipped
from vidfit.files import replacing
from vidfit.models.classifier import FrameClassifier
from vidfit.training.averaging import AveragingConfig, averaged_copy
from vidfit.training.checkpoint import BEST, MemberInfo, read_info, read_member, save_member
from vidfit.training.checkpoint_manager import BETWEEN, Checkpoint, Checkpoints
from vidfit.training.config import TrainingConfig, learning_rate
from vidfit.training.distillation import Teacher
from vidfit.training.epochs import in_step, label_frequencies
from vidfit.training.signals import STOPS, Stopping
from vidfit.training.train_step import Learner

MOST_HALVINGS = 10


class DivergedError(RecipeError):
    """The loss or a weight of a member in training is no longer a number."""


@dataclass
class Progress:
    """Where the training of a member stands; given to the caller's display now and then."""

    step: int
    steps: int | None
    """In all; None where epochs end the training."""
    loss: float
    videos_per_second: float
    gap: float | None
    """GAP of the last validation, None before the first."""
    skipped: Skipped
    """What was left out in an epoch."""


def train(
    info: MemberInfo,
    config: TrainingConfig,
    train_batches: Batches,
    validation_batches: Batches,
    directory: Path,
    seed: int,
    show: Callable[[Progress], None] = lambda _: None,
    teacher: Teacher | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> MemberInfo:
    """Train a member and leave `best.safetensors`, `last.safetensors` and `log.jsonl` in `directory`.

    Goes on from the newest checkpoint where there is one. A stop, by Ctrl-C, SIGTERM or SIGHUP, waits for the end of a
    step and leaves a checkpoint of it.

    Arguments:
        info: what to train; its step and GAP are the start's.
        config: how.
        train_batches: the videos to learn from; ranks take shares of them, and of each batch.
        validation_batches: the videos that choose the best checkpoint and end the training.
        directory: the member's folder; it is made.
        seed: of initial weights, sampling and dropout.
        show: called a few times a second.
        teacher: what to learn from beside the labels.
        say: told in one line of a damaged checkpoint, a learning rate that was halved, a stop.

    Returns:
        The description of the best checkpoint.

    Raises:
        DataError: a training or validation shard is not what it should be, or training videos lack soft labels.
        ModelFileError: the folder's checkpoints are damaged or of another model.
        DivergedError: the loss is no longer a number, and `config.on_nan` does not help; checkpoints are of before.
        OutputError: a checkpoint cannot be written; those before are as they were.
    """
    directory.mkdir(parents=True, exist_ok=True)
    training = _Training(info, config, train_batches, directory, seed, teacher, say)
    with Stopping() as stopping:
        try:
            while True:
                try:
                    _go_on(training, validation_batches, stopping, show)
                    break
                except DivergedError as error:
                    training.go_back(error)
        except STOPS:
            with stopping.held():
                training.stop()
            raise
    training.finish()
    return read_info(directory / BEST)


def _go_on(
    training: "_Training", validation_batches: Batches, stopping: Stopping, show: Callable[[Progress], None]
) -> None:
    """Train from where the training stands to its end."""
    state, gap = training.state, None
    clock, shown, seen = time.monotonic(), 0.0, 0
    if state.due:
        gap = training.validate(validation_batches, stopping)
    for batch, place in training.batches():
        with stopping.held():
            loss = training.step(batch, place)
        seen += len(batch) * distributed.count()
        validated = state.due
        if validated:
            gap = training.validate(validation_batches, stopping)
        # Reading the loss waits for the device, so not after every step.
        if validated or time.monotonic() - shown > 0.25:
            shown = time.monotonic()
            rate = seen / (shown - clock)
            show(
                Progress(
                    state.step, training.last_step, loss.item(), rate, gap, Skipped(state.skipped, state.skipped_bytes)
                )
            )


def validate(model: FrameClassifier, batches: Batches) -> dict[str, float]:
    """Metrics of the model over every frame of the batches; the model is left in training mode."""
    model.eval()
    result = evaluate(lambda batch: predict(model, batch), batches, model.classes)
    model.train()
    return result


@torch.inference_mode()
def predict(model: FrameClassifier, batch: Batch) -> np.ndarray:
    """Probabilities of a batch over all its frames, `[B, C]` float32."""
    device = next(model.parameters()).device
    batch = batch.to(device)
    return model(batch.padded(), sent(batch.num_frames, device)).cpu().numpy()


@dataclass
class _State:
    """What a checkpoint has to remember beside weights and moments."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that were trained on."""
    passed: int = 0
    """Corrupt records among them."""
    passed_bytes: int = 0
    skipped: int = 0
    """Corrupt records of an epoch."""
    skipped_bytes: int = 0
    loss: float = 0.0
    """Of the step."""
    due: bool = False
    """Whether a validation is to follow the step."""
    ends: bool = False
    """Whether the phase ends with it."""
    validated: int = 0
    """Step of the last validation."""
    stale: int = 0
    """Validations since the best."""
    best_gap: float = -1.0
    averaging: bool = False
    """Whether this is the second phase."""
    begun: int = 0
    """Step at which the phase began."""
    halvings: int = 0
    """How often its learning rate was halved."""
    done: bool = False
    """Whether the phase is over."""


class _Place(NamedTuple):
    """Where a batch stands among all."""

    epoch: int
    batch: int
    """Counted from 1."""
    skipped: Skipped
    """What was left out of the epoch up to here."""
    ends: bool
    """Whether it is the phase's last."""


class _Training:
    """A member in training: its weights, its moments, where it stands and, in the second phase, its average."""

    def __init__(
        self,
        info: MemberInfo,
        config: TrainingConfig,
        batches: Batches,
        directory: Path,
        seed: int,
        teacher: Teacher | None,
        say: Callable[[str], None],
    ) -> None:
        self._info, self._config, self._batches = info, config, batches
        self._directory, self._seed, self._teacher, self._say = directory, seed, teacher, say
        self._share = batches.of_rank(distributed.number(), distributed.count())
        self._checkpoints = Checkpoints(directory, say)
        self._begin(self._checkpoints.newest())

    @property
    def last_step(self) -> int | None:
        """The step that ends all; None where epochs end the training."""
        if self._averaging:
            return self.state.begun + self._averaging.steps
        more = self._config.averaging.steps if self._config.averaging else 0
        return self._config.steps and self._config.steps + more

    @property
    def _averaging(self) -> AveragingConfig | None:
        """How this phase averages; None in the first."""
        return self._config.averaging if self.state.averaging else None

    def batches(self) -> Iterator[tuple[Batch, _Place]]:
        """The training batches that are still to come."""
        if not self.state.averaging:
            yield from self._phase(self._config.steps, self._config.epochs)
        if self._config.averaging:
            if not self.state.averaging:
                self._begin_averaging(self._config.averaging)
            yield from self._phase(self.state.begun + self._config.averaging.steps, None)

    def step(self, batch: Batch, place: _Place) -> torch.Tensor:
        """One step of the phase, and a checkpoint if it is time for one; returns the loss.

        Raises:
            DivergedError: a loss since the last check was not a number.
        """
        state, number = self.state, self.state.step
        batch = batch.to(self._learner.device)
        loss = self._learner.step(batch, self._targets(batch), number, self._rate(number))
        state.step, state.epoch, state.batch, state.ends = number + 1, place.epoch, place.batch, place.ends
        state.passed, state.passed_bytes = place.skipped.records, place.skipped.bytes
        if state.passed >= state.skipped:
            state.skipped, state.skipped_bytes = state.passed, state.passed_bytes
        state.due = place.ends or state.step % self._config.validate_every == 0
        if self._average and self._averaging and (state.due or self._averaging.method == "ema"):
            self._average.update_parameters(self._model)
        self._losses.append(loss)
        # Looking waits for the device.
        if self._learner.device.type == "cpu" or len(self._losses) == 16:
            self._check_losses()
        if distributed.total(time.monotonic() - self._saved_at > 60 * self._config.checkpoint_minutes):
            self._save_between()
        return loss

    def validate(self, batches: Batches, stopping: Stopping) -> float:
        """Measure the model (in the second phase its average), keep the best, checkpoint; returns the GAP.

        Raises:
            DivergedError: a loss or a weight is not a number.
        """
        self._check()
        state, averaging = self.state, self._averaging
        model, keep = self._model, False
        if self._average and averaging:
            model, keep = self._average.module, averaging.keep == "always"
        assert isinstance(model, FrameClassifier)
        result = validate(model, batches)
        with stopping.held():
            info = self._info.model_copy(update={"step": state.step, "gap_validation": result["gap"]})
            state.stale += 1
            if result["gap"] > state.best_gap or keep:
                state.best_gap, state.stale = result["gap"], 0
                distributed.once(lambda: save_member(self._directory / BEST, info, model.state_dict()))
            patience = None if averaging else self._config.patience
            state.done = state.ends or (patience is not None and state.stale >= patience)
            state.due, state.validated = False, state.step
            line = {"step": state.step, "loss": state.loss, "lr": self._rate(state.step - 1), **result}
            distributed.once(lambda: _log(self._directory / "log.jsonl", {**line, "averaged": state.averaging}))
            self._save(info)
            self._checkpoints.promote()
        return result["gap"]

    def go_back(self, error: DivergedError) -> None:
        """To the last validation, or to the beginning where there was none, for another try at half the learning rate.

        Raises:
            DivergedError: the one that was given, as the recipe does not want this, or it has been done too often.
        """
        if self._config.on_nan == "stop":
            raise DivergedError(f"{error}; training diverged, try a lower learning_rate or on_nan: halve") from error
        halvings = self.state.halvings + 1
        if halvings > MOST_HALVINGS:
            raise DivergedError(f"{error}, with a learning rate halved {MOST_HALVINGS} times, too") from error
        del self._learner, self._model, self._average  # before there are others
        self._begin(self._checkpoints.go_back())
        self.state.halvings = halvings
        rate = self._rate(self.state.step)
        self._say(f"{error}; back to step {self.state.step}, with half the learning rate: {rate:.3g}")

    def stop(self) -> None:
        """Leave a checkpoint of all that was done."""
        if self.state.step > self._saved_step:
            self._save_between()
        self._say(f"stopped after step {self.state.step}, which is kept")

    def finish(self) -> None:
        """The training is over: what only it needed goes."""
        self._checkpoints.finish()

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this phase."""
        rate = self._averaging.learning_rate if self._averaging else learning_rate(self._config, step)
        return rate / 2**self.state.halvings

    def _targets(self, batch: Batch) -> torch.Tensor:
        """What to learn of each video, float32 `[B, C]`: its labels, and what the teacher says."""
        labels_BC = batch.multi_hot(self._model.classes)
        if self._teacher is None:
            return labels_BC
        try:
            return self._teacher.targets(batch.ids, labels_BC)
        except KeyError as error:
            raise self._teacher.incomplete(error.args, self._batches) from error

    def _phase(self, steps: int | None, epochs: int | None) -> Iterator[tuple[Batch, _Place]]:
        """Epoch after epoch from where `state` stands."""
        state = self.state
        epoch, trained, skipped = state.epoch, state.batch, Skipped(state.passed, state.passed_bytes)
        while not state.done:
            # A batch is held back until the next is there, to know which is an epoch's last.
            pairs = pairwise(chain(in_step(self._share, epoch, trained, skipped), [None]))
            for number, (batch, following) in enumerate(pairs, start=trained + 1):
                assert batch is not None
                skipped += batch.skipped
                ends = following is None and epoch + 1 == epochs
                yield batch, _Place(epoch, number, skipped, ends or state.step + 1 == steps)
                if state.done:
                    return
            epoch, trained, skipped = epoch + 1, 0, Skipped()

    def _begin_averaging(self, config: AveragingConfig) -> None:
        best, tensors, _ = read_member(self._directory / BEST)
        self._model.load_state_dict(tensors)
        self._learner.forget()
        self._average = averaged_copy(self._model, config)
        state = self.state
        state.averaging, state.begun, state.halvings, state.done = True, state.step, 0, False
        # Before anything else is written: what the phase begins from may be replaced in its course.
        self._save(best)
        self._checkpoints.promote()

    def _check(self) -> None:
        """Raises DivergedError where a loss or a weight is not a number."""
        self._check_losses()
        for name, tensor in self._model.state_dict().items():
            # A sum is one pass without a copy; it is not finite where one of its terms is not.
            if not tensor.sum().isfinite():
                raise DivergedError(f"member {self._info.name}: {name} is not finite after step {self.state.step}")

    def _check_losses(self) -> None:
        """Of the steps since the last call."""
        if not self._losses:
            return
        losses, first = torch.stack(self._losses).tolist(), self.state.step - len(self._losses) + 1
        self._losses.clear()
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise DivergedError(f"member {self._info.name}: the loss is {loss} at step {step}")
        self.state.loss = losses[-1]

    def _save_between(self) -> None:
        """A checkpoint without a validation; its GAP is the start's."""
        self._check()
        self._save(self._info.model_copy(update={"step": self.state.step}))

    def _save(self, info: MemberInfo) -> None:
        tensors = self._model.state_dict()
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self._learner.moments().items()}
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        self._checkpoints.save(info, tensors, vars(self.state))
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """From a checkpoint, or from initial weights where there is none."""
        torch.manual_seed(self._seed)
        self._learner = Learner(self._info.build(), self._config, self._seed)
        self._model = self._learner.model
        self._average: AveragedModel | None = None
        self._losses: list[torch.Tensor] = []
        if checkpoint:
            self.state = self._restored(*checkpoint)
        else:
            self.state = _State()
            frequencies_C = label_frequencies(self._share, self._model.classes)
            self._model.head.set_prior(frequencies_C.to(self._learner.device))
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def _restored(
        self, path: Path, saved: MemberInfo, tensors: dict[str, torch.Tensor], extra: dict[str, object]
    ) -> _State:
        """Take over a checkpoint's weights, moments and average; returns where it stood."""
        if any(getattr(saved, name) != getattr(self._info, name) for name in ("classifier", "spec", "vocabulary")):
            raise ModelFileError(f"{path}: was begun as another model; remove {self._directory} to begin anew")
        parts: dict[str, dict[str, torch.Tensor]] = {"optimizer": {}, "average": {}, "": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part if part in parts else ""][name if part in parts else key] = tensor
        self._model.load_state_dict(parts[""])
        state = _State(**extra)  # type: ignore[arg-type] - JSON of the same class
        if parts["optimizer"]:
            self._learner.remember(parts["optimizer"], state.step - state.begun)
        if state.averaging and self._config.averaging:
            self._average = averaged_copy(self._model, self._config.averaging)
            self._average.load_state_dict(parts["average"])
        if path.name == BETWEEN and state.validated == state.step:
            self._checkpoints.promote()  # a kill came between the two
        return state


def _log(path: Path, line: dict[str, float]) -> None:
    """Add a line for a validation; lines of its step or later are from before a kill and come again."""
    lines = [json.loads(old) for old in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    with replacing(path) as partial:
        kept = [old for old in lines if old["step"] < line["step"]]
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in [*kept, line]), encoding="utf-8")
