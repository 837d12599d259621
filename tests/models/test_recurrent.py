"""Recurrent layers on a GPU: cuDNN is stricter than the CPU about the weights that it is handed."""

import pytest
import torch

from tests.models.test_formulas import FAMILIES, LENGTHS, build, bytes_of
from vidfit.models import recurrent
from vidfit.models.recurrent import Cell, Layer


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_weights_are_contiguous_and_side_by_side_when_they_run(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cuDNN demands, held to where there is no GPU too."""
    layer = Layer(cell, 5, 4, bidirectional=True)
    recurrent.reset_parameters(layer)
    run, seen = getattr(torch, cell), []

    def spy(*arguments, **options):
        seen.extend(arguments[2])
        return run(*arguments, **options)

    monkeypatch.setattr(torch, cell, spy)
    layer.eval()(torch.randn(2, 3, 5), None)
    assert len(seen) == 8
    assert all(weight.is_contiguous() for weight in seen)
    assert len({weight.untyped_storage().data_ptr() for weight in seen}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4)], ids=["unequal", "equal"])
@pytest.mark.parametrize("family", ["lstm", "lstm gated", "gru", "gru gated"])
def test_outputs_and_gradients_on_a_gpu_are_those_on_the_cpu(family: str, lengths: tuple[int, ...]) -> None:
    _, frames = bytes_of(lengths, seed=2)

    def run(device: str) -> list[torch.Tensor]:
        module = build(FAMILIES[family][0], {"type": "logistic"}, seed=1).to(device)
        on_device = {name: codes.to(device) for name, codes in frames.items()}
        probabilities_BC = module(on_device, torch.tensor(lengths, device=device))
        probabilities_BC.square().sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        return [tensor.detach().cpu() for tensor in (probabilities_BC, *gradients) if tensor is not None]

    # In training cuDNN multiplies in TF32, ten bits of mantissa.
    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
