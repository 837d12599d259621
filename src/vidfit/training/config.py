"""How a member is trained: the keys of a recipe's `training`, and the learning rate that follows from them."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidfit.files import PathText
from vidfit.training.averaging import AveragingConfig


class SegmentsConfig(BaseModel):
    """Learn from rated segments in place of whole videos. Labels that were not rated in a segment weigh 0."""

    model_config = ConfigDict(extra="forbid")

    context: float = Field(
        default=3, ge=0, allow_inf_nan=False, description="seconds around a segment that the model sees too"
    )
    table: PathText | None = Field(
        default=None, min_length=1, description="intervals, path,label,start,end, in place of the ratings in the shards"
    )
    seconds: int = Field(default=5, ge=1, description="length of the segments that the table rates")


class TrainingConfig(BaseModel):
    """How to train a member."""

    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(default=None, gt=0, description="number of batches; give this or ...")
    epochs: int | None = Field(default=None, gt=0, description="... number of passes over the training shards")
    batch_size: int = Field(default=128, gt=0, description="videos per step")
    accumulate: int = Field(
        default=1, gt=0, description="split a batch into so many parts, run one after another; their gradients add up"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of matrix products; weights, moments and the loss stay float32"
    )
    sampling: Literal["replacement", "sequence", "none"] = Field(
        default="replacement",
        description="the frames a step sees: drawn with replacement, neighbours from a random start, or all",
    )
    sample_frames: int = Field(default=300, gt=0, description="frames that sampling takes from a video")
    mixup: float = Field(
        default=0.0, ge=0, description="alpha of the Beta distribution that weights pairs of videos; 0 mixes none"
    )
    balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how far to repeat videos with rare labels and drop those with frequent ones",
    )
    learning_rate: float = Field(default=0.001, gt=0)
    schedule: Literal["staircase", "one-cycle"] = Field(
        default="staircase",
        description="of the learning rate: it falls in steps (`lr_decay`), or rises and falls once over all `steps`",
    )
    lr_decay: float = Field(default=0.8, gt=0, le=1, description="multiply the learning rate by this ...")
    lr_decay_examples: int = Field(default=4_000_000, gt=0, description="... after each so many videos")
    per_tensor_clip_norm: float = Field(default=1.0, gt=0, description="largest norm of each tensor's gradient")
    batch_norm_momentum: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="weight of a batch in batch norm's running statistics; 0.001 in the original",
    )
    validate_every: int = Field(default=500, gt=0, description="steps")
    patience: int | None = Field(default=None, gt=0, description="stop after so many validations without a better GAP")
    shuffle_buffer: int = Field(default=2048, ge=0, description="videos from which the next one is drawn")
    checkpoint_minutes: float = Field(
        default=10,
        gt=0,
        description="longest time between checkpoints; does not change the result",
    )
    on_nan: Literal["stop", "halve"] = Field(
        default="stop",
        description="if the loss is not finite: stop, or return to the last validation with half the learning rate",
    )
    workers: int = Field(default=0, ge=0, description="reading threads; 0 reads between steps")
    start: PathText | None = Field(
        default=None, min_length=1, description="a member whose weights it starts from: its folder or file"
    )
    segments: SegmentsConfig | None = Field(default=None, description="learn from rated segments")
    averaging: AveragingConfig | None = Field(default=None, description="a second phase that averages weights")

    @model_validator(mode="after")
    def _ends(self) -> "TrainingConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    @model_validator(mode="after")
    def _a_cycle_has_a_length(self) -> "TrainingConfig":
        if self.schedule == "one-cycle" and self.steps is None:
            raise ValueError("schedule: one-cycle needs steps; epochs do not fix their number")
        return self

    @model_validator(mode="after")
    def _mixes_sampled_frames(self) -> "TrainingConfig":
        if self.mixup and self.sampling == "none":
            raise ValueError("mixup pairs frames of two videos one by one; it needs sampling: replacement or sequence")
        if self.mixup and self.segments:
            raise ValueError("mixup mixes labels, and most labels of a rated segment are not known; remove mixup")
        return self


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step of the first phase, counted from 0.

    A staircase is multiplied by `lr_decay` after each `lr_decay_examples` videos. One cycle rises from 1/25 of
    `learning_rate` over 30% of the steps, and falls to 1/250,000 of it, both as a half cosine.

    Source: Smith & Topin 2018 (arXiv 1708.07120), as `torch.optim.lr_scheduler.OneCycleLR`, with its defaults.
    """
    if config.schedule == "staircase":
        return config.learning_rate * config.lr_decay ** (step * config.batch_size // config.lr_decay_examples)
    assert config.steps is not None
    lowest, last = config.learning_rate / 25, config.steps - 1
    top = 0.3 * config.steps - 1
    if step <= top:
        start, end, done = lowest, config.learning_rate, step / top
    else:
        start, end, done = config.learning_rate, lowest / 1e4, min(1.0, (step - top) / max(last - top, 1e-9))
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
