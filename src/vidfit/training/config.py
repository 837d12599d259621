"""How a member is trained: the keys of a recipe's `training`, and the learning rate that follows from them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidfit.training.averaging import AveragingConfig


class TrainingConfig(BaseModel):
    """How a member is trained."""

    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(default=None, gt=0, description="at most so many batches; or ...")
    epochs: int | None = Field(default=None, gt=0, description="... so often over the training shards")
    batch_size: int = Field(default=128, gt=0, description="videos a step")
    accumulate: int = Field(
        default=1, gt=0, description="parts of a batch that go through the model one after another; gradients add up"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of matrix products; weights, moments and the loss stay float32"
    )
    sampling: Literal["replacement", "sequence", "none"] = Field(
        default="replacement",
        description="frames that a step sees: drawn with replacement, neighbours from a random start on, or all",
    )
    sample_frames: int = Field(default=300, gt=0, description="frames that sampling takes from a video")
    mixup: float = Field(
        default=0.0, ge=0, description="alpha of the Beta distribution that pairs of videos are mixed by; 0 mixes none"
    )
    balance: float = Field(
        default=0.0, ge=0, le=1, description="how far videos of rare labels are repeated and of frequent ones left out"
    )
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
    checkpoint_minutes: float = Field(
        default=10,
        gt=0,
        description="between checkpoints at most; it changes no bit of the result",
    )
    on_nan: Literal["stop", "halve"] = Field(
        default="stop",
        description="when the loss is no longer a number: stop, or go back to the last validation and halve the rate",
    )
    workers: int = Field(default=0, ge=0, description="reading threads; 0 reads in between steps")
    averaging: AveragingConfig | None = Field(default=None, description="a second phase that averages weights")

    @model_validator(mode="after")
    def _ends(self) -> "TrainingConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    @model_validator(mode="after")
    def _mixes_sampled_frames(self) -> "TrainingConfig":
        if self.mixup and self.sampling == "none":
            raise ValueError("mixup pairs frames of two videos one by one; it needs sampling: replacement or sequence")
        return self


def learning_rate(config: TrainingConfig, step: int) -> float:
    """A staircase: x `decay` each `decay_examples` videos."""
    return config.learning_rate * config.decay ** (step * config.batch_size // config.decay_examples)
