"""How a member is trained: the keys of a recipe's `training`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidfit.files import PathText
from vidfit.training.averaging import AveragingConfig


class SegmentsConfig(BaseModel):
    """Learn from rated segments instead of whole videos. `{}` takes the defaults.

    Labels that were not rated in a segment weigh 0. Not with `mixup` or `distill`.
    """

    model_config = ConfigDict(extra="forbid")

    context: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["video"] = Field(
        default=3,
        description="seconds before and after a segment that the model sees too; `video`: the encoder sees the whole "
        "video, the family only the segment",
    )
    table: PathText | None = Field(
        default=None,
        min_length=1,
        description="intervals, `path,label,start,end`, instead of the ratings in the shards; all labels then count "
        "as rated, by a segment's middle",
    )
    seconds: int = Field(default=5, ge=1, description="length of the segments that `table` rates")


class TrainingConfig(BaseModel):
    """A member's own `training` overrides single keys of the recipe's. Give `steps` or `epochs`."""

    model_config = ConfigDict(extra="forbid")

    solver: Literal["adam", "lbfgs"] = Field(
        default="adam",
        description="`lbfgs` finds the best weights of a linear member, `mean` with a logistic head. Each step learns "
        "from all videos, whose averages are held in memory. It needs `steps`; of the other keys, only `balance` "
        "changes the result",
    )
    steps: int | None = Field(default=None, gt=0, description="batches, at most")
    epochs: int | None = Field(default=None, gt=0, description="passes over the training videos, at most")
    batch_size: int = Field(default=128, gt=0, description="videos per step, over all processes")
    accumulate: int = Field(
        default=1, gt=0, description="compute a batch in this many parts, to save memory; batch norm sees one part"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of matrix products. `bfloat16` is faster on a GPU; on a CPU only with AMX and small members, and "
        "not for `lstm`, `gru` and `encoder.cells`",
    )
    sampling: Literal["replacement", "sequence", "none"] = Field(
        default="replacement",
        description="frames per step: drawn with `replacement`, a `sequence` of neighbours, or all (`none`)",
    )
    sample_frames: int = Field(default=300, gt=0, description="frames to sample per video")
    mixup: float = Field(default=0.0, ge=0, description="alpha of mixup's Beta distribution; 0 mixes none")
    balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="repeat videos of rare labels and skip some of frequent ones: `(median frequency / frequency) ^ "
        "balance` times, between 1/8 and 8",
    )
    learning_rate: float = Field(default=0.001, gt=0, description="of Adam")
    schedule: Literal["staircase", "one-cycle"] = Field(
        default="staircase",
        description="of the learning rate. `staircase`: the next two keys; `one-cycle`: it rises over 30% of `steps`, "
        "then falls to nearly 0",
    )
    lr_decay: float = Field(default=0.8, gt=0, le=1, description="multiply the learning rate by this, again and again")
    lr_decay_examples: int = Field(default=4_000_000, gt=0, description="after so many videos")
    per_tensor_clip_norm: float = Field(default=1.0, gt=0, description="clip each tensor's gradient to this norm")
    batch_norm_momentum: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="weight of a batch in the running statistics: 0.05 for 1,000 steps, 0.001 for 100,000",
    )
    validate_every: int = Field(default=500, gt=0, description="steps between validations")
    patience: int | None = Field(
        default=None, gt=0, description="stop after this many validations without a better GAP"
    )
    shuffle_buffer: int = Field(
        default=2048,
        ge=0,
        description="videos in memory to draw the next one from; 0 keeps the order. A cache needs none",
    )
    checkpoint_minutes: float = Field(
        default=10,
        gt=0,
        description="time between checkpoints; no effect on the result",
    )
    on_nan: Literal["stop", "halve"] = Field(
        default="stop",
        description="if the loss becomes NaN: `stop`, or `halve` the learning rate and go back to the last validation, "
        "at most ten times",
    )
    log: Literal["tensorboard"] | None = Field(
        default=None,
        description="`tensorboard` writes validations to `RUN/members/NAME/tensorboard` too; no effect on the result",
    )
    workers: int = Field(default=0, ge=0, description="threads that read ahead")
    start: PathText | None = Field(
        default=None,
        min_length=1,
        description="a member (folder or file) to take initial weights from: same features, labels, family and sizes",
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
    def _a_solver_sees_whole_videos(self) -> "TrainingConfig":
        if self.solver == "lbfgs":
            if self.steps is None:
                raise ValueError("solver: lbfgs needs steps, the most iterations")
            other = next((key for key in ("mixup", "start", "segments", "averaging") if getattr(self, key)), None)
            if other:
                raise ValueError(f"solver: lbfgs finds the best weights at once; remove {other}")
        return self

    @model_validator(mode="after")
    def _mixes_sampled_frames(self) -> "TrainingConfig":
        if self.mixup and self.sampling == "none":
            raise ValueError("mixup pairs frames of two videos one by one; it needs sampling: replacement or sequence")
        if self.mixup and self.segments:
            raise ValueError("mixup mixes labels, and most labels of a rated segment are not known; remove mixup")
        return self

    @model_validator(mode="after")
    def _whole_videos_come_whole(self) -> "TrainingConfig":
        whole = self.segments is not None and self.segments.context == "video"
        if whole and (self.sampling != "none" or self.accumulate > 1):
            raise ValueError("segments.context: video needs sampling: none and accumulate: 1")
        return self
