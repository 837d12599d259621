"""Adam and its clipping against PyTorch's optimiser on gradients that are clipped one by one."""

import pytest
import torch
from torch import Tensor, nn

from vidfit.kernels import factored_gradients
from vidfit.kernels.factored_gradients import FactoredGradient, FactoredGradients
from vidfit.training.optimizer import Adam

L2 = 0.2


class Model(nn.Module):
    """Three matrices and a bias: large, large with a penalty, small."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large = nn.Parameter(torch.randn(70, 24) / 8)
        self.penalised = nn.Parameter(torch.randn(24, 20) / 5)
        self.small = nn.Parameter(torch.randn(20, 5))
        self.biases = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.tanh(x @ self.large) @ self.penalised) @ self.small + self.biases

    def loss(self, x: Tensor, scale: float) -> Tensor:
        return scale * self(x).square().sum()


def by_hand(model: Model, max_norm: float):
    """A step of `torch.optim.Adam`."""
    optimizer = torch.optim.Adam(model.parameters())

    def step(x: Tensor, scale: float, learning_rate: float) -> None:
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.zero_grad()
        (model.loss(x, scale) + L2 * 0.5 * model.penalised.square().sum()).backward()
        for parameter in model.parameters():
            torch.nn.utils.clip_grad_norm_(parameter, max_norm)
        optimizer.step()

    return step


@pytest.mark.parametrize("factored", [False, True], ids=["made", "thin"])
def test_it_is_adam_on_clipped_gradients(monkeypatch: pytest.MonkeyPatch, factored: bool):
    monkeypatch.setattr(factored_gradients, "SMALLEST", 400)
    monkeypatch.setattr(factored_gradients, "BLOCK", 240)  # 10 rows of the large one
    ours, theirs = Model(), Model()
    step, optimizer = by_hand(theirs, 1.0), Adam(ours.named_parameters(), {ours.penalised: L2}, 1.0)
    gradients = FactoredGradients(ours.parameters(), 4) if factored else None
    clipped = []
    for number in range(8):
        x = torch.randn(4, 70)
        scale, learning_rate = 10.0 ** (-number), 0.02 / (1 + number)
        if gradients:
            with gradients:
                loss = ours.loss(x, scale)
        else:
            loss = ours.loss(x, scale)
        loss.backward()
        taken = gradients.take() if gradients else {}
        assert len(taken) == (2 if factored else 0)
        clipped += [bool(kept.norm(weights, 0.0) > 1) for weights, kept in taken.items()]
        optimizer.step(learning_rate, taken)
        step(x, scale, learning_rate)
        assert all(parameter.grad is None for parameter in ours.parameters())
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert not factored or len(set(clipped)) == 2


def test_a_gradient_of_zero_moves_nothing():
    weights = nn.Parameter(torch.ones(6, 6))
    optimizer = Adam([("weights", weights)], {}, 1.0)
    optimizer.step(0.1, {weights: FactoredGradient(torch.zeros(2, 6), torch.zeros(2, 6), torch.ones(2, 6))})
    assert torch.equal(weights, torch.ones(6, 6))


def test_its_state_goes_on_where_it_was():
    first, second = Model(), Model()
    one, other = (Adam(model.named_parameters(), {}, 1.0) for model in (first, second))
    assert one.state() == {}
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        if number == 2:
            names = [name for name, _ in first.named_parameters()]
            assert set(one.state()) == {f"{moment}.{name}" for moment in ("exp_avg", "exp_avg_sq") for name in names}
            second.load_state_dict(first.state_dict())
            other.load_state({name: tensor.clone() for name, tensor in one.state().items()}, 2)
        x = torch.randn(4, 70, generator=generator)
        for model, optimizer in ((first, one), (second, other))[: 1 if number < 2 else 2]:
            model.loss(x, 1.0).backward()
            optimizer.step(0.01, {})
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
