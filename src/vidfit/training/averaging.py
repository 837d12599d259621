"""Weight averaging: a second phase of training, from the converged weights, at a low constant learning rate.

While the weights go on moving around a minimum, their average stays closer to its middle. Two ways of averaging:

- `ema`: after every step `W_avg <- d W_avg + (1 - d) W` with `d = 1 - 1/half_life`;
- `equal`: the plain mean of the checkpoints, the starting weights and those at each validation of the phase.

Batch norm's running statistics are averaged as the weights are. What this costs is a copy of the weights in memory and
the steps of the phase. The average takes the place of the best checkpoint only where it is better on the validation
videos, unless the recipe says always.

Source: Skalic & Austin 2018, their exponential moving averages; for `equal` Izmailov et al. 2018 (arXiv 1803.05407).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class AveragingConfig(BaseModel):
    """How a member's weights are averaged after it has converged."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["ema", "equal"] = "ema"
    steps: int = Field(gt=0, description="of the phase, after the training's own")
    learning_rate: float = Field(default=0.0001, gt=0, description="constant")
    half_life: int = Field(default=1000, gt=1, description="steps; the average moves by 1/half_life of the way a step")
    keep: Literal["better", "always"] = Field(
        default="better", description="keep the average if its validation GAP is better, or always"
    )


def averaged_copy(model: nn.Module, config: AveragingConfig) -> AveragedModel:
    """An average that holds the model's weights and statistics as they are; `update_parameters(model)` moves it."""
    equal = config.method == "equal"
    move = get_swa_multi_avg_fn() if equal else get_ema_multi_avg_fn(1 - 1 / config.half_life)

    def each_type(averages: Tensors, values: Tensors, number: Tensor | int) -> None:
        if averages[0].is_floating_point():
            move(averages, values, number)
            return
        for average, value in zip(averages, values, strict=True):
            average.copy_(value)  # a counter of batches, of which PyTorch's own mean makes an error

    average = AveragedModel(model, multi_avg_fn=each_type, use_buffers=True)
    average.update_parameters(model)
    return average
