"""Recurrent layers on a GPU: cuDNN is stricter than the CPU about the weights that it is handed."""

import pytest
import torch

from tests.models.test_formulas import FORMULAS, LENGTHS, build, bytes_of
from vidfit.kernels.recurrent import Cell
from vidfit.models.recurrent import Layer


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_weights_are_contiguous_and_side_by_side_when_they_run(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cuDNN demands, held to where there is no GPU too."""
    layer = Layer(cell, 5, 4, bidirectional=True)
    layer.reset_parameters()
    run, seen = getattr(torch, cell), []

    def spy(*arguments, **options):
        seen.extend(arguments[2])
        return run(*arguments, **options)

    monkeypatch.setattr(torch, cell, spy)
    layer.eval()(torch.randn(2, 3, 5), None)
    assert len(seen) == 8
    assert all(weight.is_contiguous() for weight in seen)
    assert len({weight.untyped_storage().data_ptr() for weight in seen}) == 1
    side_by_side = sorted(seen, key=lambda weight: weight.storage_offset())
    assert [weight.dim() for weight in side_by_side] == [2] * 4 + [1] * 4
    ends = [weight.storage_offset() + weight.numel() for weight in side_by_side]
    assert [weight.storage_offset() for weight in side_by_side] == [0, *ends[:-1]]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_autocast_is_to_the_dtype_that_was_asked_for(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own, of cuDNN's layers, is to float16 whatever was asked for."""
    layer = Layer(cell, 5, 4, bidirectional=False)
    layer.reset_parameters()
    seen = []

    def spy(inputs, start, weights, *options, **more):
        starts = start if isinstance(start, tuple) else (start,)
        seen.extend(tensor.dtype for tensor in (inputs, *starts, *weights))
        assert not torch.is_autocast_enabled("cpu")
        return inputs, *starts

    monkeypatch.setattr(torch, cell, spy)
    with torch.autocast("cpu", torch.bfloat16):
        layer.eval()(torch.randn(2, 3, 5), None)
    assert set(seen) == {torch.bfloat16}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
@pytest.mark.parametrize("lengths", [LENGTHS, (4, 4, 4)], ids=["unequal", "equal"])
@pytest.mark.parametrize("family", ["lstm", "lstm gated", "gru", "gru gated"])
def test_outputs_and_gradients_on_a_gpu_are_those_on_the_cpu(family: str, lengths: tuple[int, ...]) -> None:
    _, frames = bytes_of(lengths, seed=2)

    def run(device: str) -> list[torch.Tensor]:
        module = build(FORMULAS[family][0], {"type": "logistic"}, seed=1).to(device)
        on_device = {name: codes.to(device) for name, codes in frames.items()}
        probabilities_BC = module(on_device, torch.tensor(lengths, device=device))
        probabilities_BC.square().sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        return [tensor.detach().cpu() for tensor in (probabilities_BC, *gradients) if tensor is not None]

    # In training cuDNN multiplies in TF32, ten bits of mantissa.
    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
