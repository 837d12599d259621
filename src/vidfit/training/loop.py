"""Train one member: read, sample frames, step, validate now and then, keep the best and the last.

Everything random in step `n` follows from the seed and `n` alone, so that a run killed anywhere and started again from
its last checkpoint ends with the same weights, to the bit, as one that was never stopped. The price is a reseeding
a step (microseconds) and, on resuming, reading past the part of the epoch that was trained on already.

Source: Skalic & Austin 2018; the optimiser's settings are those of its NetVLAD (see recipes/yt8m-1gb.yaml).
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidfit.errors import ModelFileError, RecipeError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batches import Batch, Batches
from vidfit.files import replacing
from vidfit.models.classifier import FrameClassifier
from vidfit.models.frames import sample_frames
from vidfit.training.checkpoint import BEST, LAST, MemberInfo, read_member, save_member
from vidfit.training.losses import cross_entropy

PRIOR_VIDEOS = 20_000


class TrainingConfig(BaseModel):
    """How a member is trained."""

    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(default=None, gt=0, description="at most so many batches; or ...")
    epochs: int | None = Field(default=None, gt=0, description="... so often over the training shards")
    batch_size: int = Field(default=128, gt=0, description="videos a step")
    sample_frames: int = Field(default=300, gt=0, description="frames drawn from a video, with replacement")
    learning_rate: float = Field(default=0.001, gt=0)
    decay: float = Field(default=0.8, gt=0, le=1, description="the learning rate's factor ...")
    decay_examples: int = Field(default=4_000_000, gt=0, description="... each so many videos")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of each variable's gradient")
    batch_norm_momentum: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="share of a batch in batch norm's running statistics; 0.001 in the original",
    )
    validate_every: int = Field(default=500, gt=0, description="steps")
    patience: int | None = Field(default=None, gt=0, description="stop after so many validations without a better GAP")
    shuffle_buffer: int = Field(default=2048, ge=0, description="videos to draw the next one from")
    workers: int = Field(default=0, ge=0, description="reading processes; 0 reads in the training process")

    @model_validator(mode="after")
    def _ends(self) -> "TrainingConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


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

    Returns:
        The description of the best checkpoint.

    Raises:
        DataError: a training or validation shard is not what it should be.
        ModelFileError: the folder's checkpoint is of another model.
        RecipeError: the loss is no longer a number.
        OutputError: a checkpoint cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = info.build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = config.batch_norm_momentum
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    state = _resume(directory, info, model, optimizer)
    if not state.step:
        model.head.set_prior(label_frequencies(train_batches, model.classes).to(device))
    gap: float | None = None
    clock, shown, seen = time.monotonic(), 0.0, 0

    for batch, last in _stream(train_batches, config, state):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step)
        loss = _step(model, optimizer, batch.to(device), config, (seed * 1_000_003 + state.step) % 2**63)
        state.step += 1
        seen += len(batch.ids)
        validated = last or state.step % config.validate_every == 0
        if validated:
            if not torch.isfinite(loss):
                raise RecipeError(
                    f"member {info.name}: the loss is {loss.item()} at step {state.step}; "
                    "training diverged, try a lower learning_rate"
                )
            result = validate(model, validation_batches)
            gap = result["gap"]
            now = info.model_copy(update={"step": state.step, "gap_validation": gap})
            state.stale += 1
            if gap > state.best_gap:
                state.best_gap, state.stale = gap, 0
                save_member(directory / BEST, now, model.state_dict())
            state.done = last or (config.patience is not None and state.stale >= config.patience)
            line = {"step": state.step, "loss": loss.item(), "lr": optimizer.param_groups[0]["lr"], **result}
            _log(directory / "log.jsonl", line)
            _save_last(directory, now, model, optimizer, state)
        # Reading the loss waits for the device, so not after every step.
        if validated or time.monotonic() - shown > 0.25:
            shown = time.monotonic()
            rate = seen / (shown - clock)
            show(Progress(state.step, config.steps, loss.item(), rate, gap, state.skipped))
    return read_member(directory / BEST)[0]


def label_frequencies(batches: Batches, classes: int) -> torch.Tensor:
    """Share of the training videos that have each label, float32 `[C]`, from the first 20,000 of them.

    Half a video is added to both sides, so that no share is 0 or 1.
    """
    counts_C, videos = torch.full((classes,), 0.5), 1
    for batch in batches.epoch(0):
        counts_C += torch.bincount(batch.labels, minlength=classes)
        videos += len(batch)
        if videos > PRIOR_VIDEOS:
            break
    return counts_C / videos


def learning_rate(config: TrainingConfig, step: int) -> float:
    """A staircase: x `decay` each `decay_examples` videos."""
    return config.learning_rate * config.decay ** (step * config.batch_size // config.decay_examples)


def clip_each_(parameters: list[torch.nn.Parameter], norm: float) -> None:
    """Scale every variable's gradient, by itself, down to at most `norm` (in place)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(norm / torch.linalg.vector_norm(parameter.grad).clamp_min(norm))


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
    done: bool = False


def _step(
    model: FrameClassifier, optimizer: torch.optim.Optimizer, batch: Batch, config: TrainingConfig, seed: int
) -> torch.Tensor:
    # A generator of its own would not reach dropout; seeding the global one covers every use.
    torch.manual_seed(seed)
    uniforms = torch.rand(len(batch.ids), config.sample_frames).to(batch.num_frames.device)
    frames = sample_frames(batch.frames, batch.num_frames, uniforms)
    loss = cross_entropy(model(frames, None), batch.multi_hot(model.classes))
    optimizer.zero_grad(set_to_none=True)
    (loss + model.penalty()).backward()
    clip_each_(list(model.parameters()), config.clip_norm)
    optimizer.step()
    return loss.detach()


def _stream(batches: Batches, config: TrainingConfig, state: _State) -> Iterator[tuple[Batch, bool]]:
    """Epoch after epoch from where `state` stands, counting in it; each batch with whether it is the last of all."""
    skip = state.batch
    while not state.done:
        state.batch = skipped = 0
        # A batch is held back until the next is there, to know which is an epoch's last.
        for batch, following in pairwise(chain(batches.epoch(state.epoch), [None])):
            assert batch is not None
            state.batch += 1
            skipped += batch.skipped
            state.skipped = max(state.skipped, skipped)
            if state.batch > skip:
                ends = following is None and state.epoch + 1 == config.epochs
                yield batch, ends or state.step + 1 == config.steps
            if state.done:
                return
        skip = 0
        state.epoch += 1


def _log(path: Path, line: dict[str, float]) -> None:
    """Add a line for a validation; lines of its step or later are from before a kill and come again."""
    lines = [json.loads(old) for old in path.read_text().splitlines()] if path.exists() else []
    with replacing(path) as partial:
        kept = [old for old in lines if old["step"] < line["step"]]
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in [*kept, line]))


def _save_last(
    directory: Path, info: MemberInfo, model: FrameClassifier, optimizer: torch.optim.Optimizer, state: _State
) -> None:
    tensors = model.state_dict()
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"optimizer.{moment}.{name}"] = optimizer.state[parameter][moment]
    save_member(directory / LAST, info, tensors, **vars(state))


def _resume(directory: Path, info: MemberInfo, model: FrameClassifier, optimizer: torch.optim.Optimizer) -> _State:
    if not (directory / LAST).exists():
        return _State()
    saved, tensors, extra = read_member(directory / LAST)
    if (saved.classifier, saved.spec, saved.vocabulary) != (info.classifier, info.spec, info.vocabulary):
        raise ModelFileError(f"{directory / LAST}: was begun as another model; remove {directory} to begin anew")
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")})
    state = _State(**extra)  # type: ignore[arg-type] - JSON of the same class
    for name, parameter in model.named_parameters():
        moments = {key: tensors[f"optimizer.{key}.{name}"].to(parameter.device) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(float(state.step), device=parameter.device), **moments}
    return state
