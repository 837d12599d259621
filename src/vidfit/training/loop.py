"""Train one member: read, sample frames, step, validate now and then, keep the best and the last.

Two phases: training proper and, where the recipe asks for it, averaging from the best weights on (see `averaging.py`).

Everything random in step `n` follows from the seed and `n` alone (`step.py`), so that a run killed anywhere and started
again from its last checkpoint ends with the same weights, to the bit, as one that was never stopped. The price is a
reseeding a step (microseconds) and, on resuming, reading past the part of the epoch that was trained on already.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from vidfit.errors import ModelFileError, RecipeError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batches import Batch, Batches
from vidfit.files import replacing
from vidfit.models.classifier import FrameClassifier
from vidfit.training.averaging import AveragingConfig, averaged_copy
from vidfit.training.checkpoint import BEST, LAST, MemberInfo, read_info, read_member, save_member
from vidfit.training.config import TrainingConfig, learning_rate
from vidfit.training.distillation import Teacher
from vidfit.training.step import Learner

PRIOR_VIDEOS = 20_000


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
    skipped: int
    """Corrupt training records passed over in an epoch."""


def train(
    info: MemberInfo,
    config: TrainingConfig,
    train_batches: Batches,
    validation_batches: Batches,
    directory: Path,
    seed: int,
    show: Callable[[Progress], None] = lambda _: None,
    teacher: Teacher | None = None,
) -> MemberInfo:
    """Train a member and leave `best.safetensors`, `last.safetensors` and `log.jsonl` in `directory`.

    Goes on from `last.safetensors` where there is one.

    Arguments:
        info: what to train; its step and GAP are the start's.
        config: how.
        train_batches: the videos to learn from.
        validation_batches: the videos that choose the best checkpoint and end the training.
        directory: the member's folder; it is made.
        seed: of initial weights, sampling and dropout.
        show: called a few times a second.
        teacher: what to learn from beside the labels.

    Returns:
        The description of the best checkpoint.

    Raises:
        DataError: a training or validation shard is not what it should be, or training videos lack soft labels.
        ModelFileError: the folder's checkpoint is of another model.
        RecipeError: the loss is no longer a number.
        OutputError: a checkpoint cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    training = _Training(info, config, train_batches, directory, seed, teacher)
    state, gap = training.state, None
    clock, shown, seen = time.monotonic(), 0.0, 0
    for batch, last in training.batches():
        loss = training.step(batch)
        seen += len(batch)
        validated = last or state.step % config.validate_every == 0
        if validated:
            if not torch.isfinite(loss):
                raise RecipeError(
                    f"member {info.name}: the loss is {loss.item()} at step {state.step}; "
                    "training diverged, try a lower learning_rate"
                )
            gap = training.validate(validation_batches, loss.item(), last)
        # Reading the loss waits for the device, so not after every step.
        if validated or time.monotonic() - shown > 0.25:
            shown = time.monotonic()
            rate = seen / (shown - clock)
            show(Progress(state.step, training.last_step, loss.item(), rate, gap, state.skipped))
    return read_info(directory / BEST)


def label_frequencies(batches: Batches, classes: int) -> torch.Tensor:
    """Share of the training videos that have each label, float32 `[C]`, from the first 20,000 of them.

    Half a video is added to both sides, so that no share is 0 or 1.
    """
    counts_C, videos = label_counts(batches, classes)
    return (counts_C + 0.5) / (videos + 1)


def label_counts(batches: Batches, classes: int) -> tuple[torch.Tensor, int]:
    """How many of the first 20,000 training videos have each label, float32 `[C]`, and how many videos these were."""
    counts_C, videos = torch.zeros(classes), 0
    for batch in batches.epoch(0):
        counts_C += torch.bincount(batch.labels, minlength=classes)
        videos += len(batch)
        if videos >= PRIOR_VIDEOS:
            break
    return counts_C, videos


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
    return model(batch.padded(), batch.num_frames).cpu().numpy()


@dataclass
class _State:
    """What a checkpoint has to remember beside weights and moments."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Batches of the epoch that were trained on."""
    skipped: int = 0
    """Corrupt records of an epoch."""
    stale: int = 0
    """Validations since the best."""
    best_gap: float = -1.0
    averaging: bool = False
    """Whether this is the second phase."""
    begun: int = 0
    """Step at which the phase began."""
    done: bool = False
    """Whether the phase is over."""


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
    ) -> None:
        self._info, self._config, self._batches = info, config, batches
        self._directory, self._teacher = directory, teacher
        torch.manual_seed(seed)
        self._learner = Learner(info.build(), config, seed)
        self._model = self._learner.model
        self._average: AveragedModel | None = None
        self.state = _State()
        if (directory / LAST).exists():
            self._resume()
        else:
            self._model.head.set_prior(label_frequencies(batches, self._model.classes).to(self._learner.device))

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

    def batches(self) -> Iterator[tuple[Batch, bool]]:
        """The training batches that are still to come; each with whether it is the last of its phase."""
        if not self.state.averaging:
            yield from self._phase(self._config.steps, self._config.epochs)
        if self._config.averaging:
            if not self.state.averaging:
                self._begin_averaging(self._config.averaging)
            yield from self._phase(self.state.begun + self._config.averaging.steps, None)

    def step(self, batch: Batch) -> torch.Tensor:
        """One step of the phase; returns the loss."""
        number = self.state.step
        batch = batch.to(self._learner.device)
        loss = self._learner.step(batch, self._targets(batch), number, self._rate(number))
        self.state.step += 1
        if self._average and self._averaging and self._averaging.method == "ema":
            self._average.update_parameters(self._model)
        return loss

    def validate(self, batches: Batches, loss: float, last: bool) -> float:
        """Measure the model (in the second phase its average), keep the best, checkpoint; returns the GAP."""
        state, averaging = self.state, self._averaging
        model, keep = self._model, False
        if self._average and averaging:
            if averaging.method == "equal":
                self._average.update_parameters(self._model)
            model, keep = self._average.module, averaging.keep == "always"
        assert isinstance(model, FrameClassifier)
        result = validate(model, batches)
        info = self._info.model_copy(update={"step": state.step, "gap_validation": result["gap"]})
        state.stale += 1
        if result["gap"] > state.best_gap or keep:
            state.best_gap, state.stale = result["gap"], 0
            save_member(self._directory / BEST, info, model.state_dict())
        patience = None if averaging else self._config.patience
        state.done = last or (patience is not None and state.stale >= patience)
        line = {"step": state.step, "loss": loss, "lr": self._rate(state.step - 1), **result}
        _log(self._directory / "log.jsonl", {**line, "averaged": state.averaging})
        self._save_last(info)
        return result["gap"]

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this phase."""
        return self._averaging.learning_rate if self._averaging else learning_rate(self._config, step)

    def _targets(self, batch: Batch) -> torch.Tensor:
        """What to learn of each video, float32 `[B, C]`: its labels, and what the teacher says."""
        labels_BC = batch.multi_hot(self._model.classes)
        if self._teacher is None:
            return labels_BC
        try:
            return self._teacher.targets(batch.ids, labels_BC)
        except KeyError as error:
            raise self._teacher.incomplete(error.args, self._batches) from error

    def _phase(self, steps: int | None, epochs: int | None) -> Iterator[tuple[Batch, bool]]:
        """Epoch after epoch from where `state` stands, counting in it; each batch with whether it is the last."""
        state, skip = self.state, self.state.batch
        while not state.done:
            state.batch = skipped = 0
            # A batch is held back until the next is there, to know which is an epoch's last.
            for batch, following in pairwise(chain(self._batches.epoch(state.epoch), [None])):
                assert batch is not None
                state.batch += 1
                skipped += batch.skipped
                state.skipped = max(state.skipped, skipped)
                if state.batch > skip:
                    ends = following is None and state.epoch + 1 == epochs
                    yield batch, ends or state.step + 1 == steps
                if state.done:
                    return
            skip = 0
            state.epoch += 1

    def _begin_averaging(self, config: AveragingConfig) -> None:
        best, tensors, _ = read_member(self._directory / BEST)
        self._model.load_state_dict(tensors)
        self._learner.forget()
        self._average = averaged_copy(self._model, config)
        self.state.averaging, self.state.begun, self.state.done = True, self.state.step, False
        # Before anything else is written: what the phase begins from may be replaced in its course.
        self._save_last(best)

    def _save_last(self, info: MemberInfo) -> None:
        tensors = self._model.state_dict()
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self._learner.moments().items()}
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._average.state_dict().items()}
        save_member(self._directory / LAST, info, tensors, **vars(self.state))

    def _resume(self) -> None:
        path = self._directory / LAST
        saved, tensors, extra = read_member(path)
        if any(getattr(saved, name) != getattr(self._info, name) for name in ("classifier", "spec", "vocabulary")):
            raise ModelFileError(f"{path}: was begun as another model; remove {self._directory} to begin anew")
        parts: dict[str, dict[str, torch.Tensor]] = {"optimizer": {}, "average": {}, "": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part if part in parts else ""][name if part in parts else key] = tensor
        self._model.load_state_dict(parts[""])
        self.state = _State(**extra)  # type: ignore[arg-type] - JSON of the same class
        if parts["optimizer"]:
            self._learner.remember(parts["optimizer"], self.state.step - self.state.begun)
        if self._averaging:
            self._average = averaged_copy(self._model, self._averaging)
            self._average.load_state_dict(parts["average"])


def _log(path: Path, line: dict[str, float]) -> None:
    """Add a line for a validation; lines of its step or later are from before a kill and come again."""
    lines = [json.loads(old) for old in path.read_text().splitlines()] if path.exists() else []
    with replacing(path) as partial:
        kept = [old for old in lines if old["step"] < line["step"]]
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in [*kept, line]))
