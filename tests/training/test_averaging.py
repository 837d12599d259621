"""Averages of weights against their formulas; the golden vectors of the moving average are in tests/models."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vidfit.models.batch_norm import BatchNorm
from vidfit.training.averaging import AveragingConfig, averaged_copy


def walk(method: str, ema_decay: float = 0.75) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """The average after five random moves of a model with statistics, and the states it went through."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), BatchNorm(2))
    average = averaged_copy(model, AveragingConfig(method=method, steps=5, ema_decay=ema_decay))  # type: ignore[arg-type]
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()}]
    for _ in range(5):
        model(torch.randn(8, 3))  # moves the statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        average.update_parameters(model)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return average.module.state_dict(), states


@pytest.mark.parametrize("method", ["ema", "equal"])
def test_averages_of_weights_and_statistics(method: str):
    average, states = walk(method)
    decay = 0.75
    weights = (
        [decay**5, *((1 - decay) * decay ** (5 - step) for step in range(1, 6))] if method == "ema" else [1 / 6] * 6
    )
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        expected = sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True))
        np.testing.assert_allclose(average[name], expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(average["1.running_mean"], states[-1]["1.running_mean"])


def test_counters_are_counted_and_not_averaged():
    model = torch.nn.BatchNorm1d(2)
    average = averaged_copy(model, AveragingConfig(method="equal", steps=1))
    for _ in range(3):
        model(torch.randn(4, 2))
        average.update_parameters(model)
    assert average.module.num_batches_tracked == 3


@pytest.mark.parametrize("decay", [0, 1])
def test_an_average_that_keeps_nothing_or_everything_is_refused(decay: float):
    with pytest.raises(ValidationError, match="ema_decay"):
        AveragingConfig(steps=1, ema_decay=decay)
