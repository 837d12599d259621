"""Weight averaging: a second training phase from the best weights, at a low constant learning rate.

The weights keep moving around a minimum; their average stays closer to its middle. There are two ways:

- `ema`: after each step `average <- d * average + (1 - d) * weights`, with d = `ema_decay`;
- `equal`: the mean of the phase's starting weights and of those at each of its validations.

Batch norm's running statistics are averaged like weights. The phase costs its steps and a copy of the weights. The
average replaces the best checkpoint only if it is better on the validation videos, unless the recipe says `always`.

Source: Skalic & Austin 2018 for `ema`; Izmailov et al. 2018 (arXiv 1803.05407) for `equal`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class AveragingConfig(BaseModel):
    """A second phase that averages weights. It starts from the best checkpoint, with a new optimiser."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["ema", "equal"] = Field(
        default="ema",
        description="`ema`: exponential moving average; `equal`: mean of the weights at the start and each validation",
    )
    steps: int = Field(gt=0, description="length of the phase")
    learning_rate: float = Field(default=0.0001, gt=0, description="of the phase, constant")
    ema_decay: float = Field(
        default=0.999, gt=0, lt=1, description="d of `ema`: `average = d * average + (1 - d) * weights` after each step"
    )
    keep: Literal["better", "always"] = Field(
        default="better", description="keep the average only if its validation GAP is higher, or always"
    )


def averaged_copy(model: nn.Module, config: AveragingConfig) -> AveragedModel:
    """An average that starts as a copy of the model. Call its `update_parameters(model)` to move it."""
    equal = config.method == "equal"
    move = get_swa_multi_avg_fn() if equal else get_ema_multi_avg_fn(config.ema_decay)

    def each_type(averages: Tensors, values: Tensors, number: Tensor | int) -> None:
        if averages[0].is_floating_point():
            move(averages, values, number)
            return
        for average, value in zip(averages, values, strict=True):
            average.copy_(value)  # PyTorch's own mean fails on counters.

    average = AveragedModel(model, multi_avg_fn=each_type, use_buffers=True)
    average.update_parameters(model)
    return average
