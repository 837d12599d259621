"""Which tensors of a state are quantised, and what becomes of them in a safetensors file."""

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidfit.errors import ModelFileError
from vidfit.quantization.state import (
    MIN_ELEMENTS,
    dequantize_state,
    flatten_state,
    quantize_state,
    schemes_of,
    unflatten_state,
)
from vidfit.quantization.uniform import INT8, QuantizedTensor, QuantScheme

every_scheme = pytest.mark.parametrize("scheme", [INT8, QuantScheme(bits=3, granularity="channel")], ids=str)


def restore(plain: dict[str, torch.Tensor], state: Mapping[str, torch.Tensor | QuantizedTensor]):
    return unflatten_state(plain, schemes_of(state), {name: tensor.shape for name, tensor in mixed_state().items()})


@every_scheme
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_an_error_naming_its_tensor(bad, scheme):
    weights = torch.zeros(MIN_ELEMENTS + 1)
    weights[70] = bad
    with pytest.raises(ModelFileError, match=r"'head\.weights' holds NaN or infinity"):
        quantize_state({"head.weights": weights}, scheme)


def mixed_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "big": torch.randn(130, 140, generator=generator),
        "limit": torch.randn(MIN_ELEMENTS, generator=generator),
        "constant": torch.full((MIN_ELEMENTS + 1,), 0.3),
        "counts": torch.arange(MIN_ELEMENTS + 1),
    }


@every_scheme
def test_only_big_float32_tensors_are_quantized(scheme):
    state = mixed_state()
    quantized = quantize_state(state, scheme)
    assert {name for name, value in quantized.items() if isinstance(value, QuantizedTensor)} == {"big", "constant"}
    assert quantized["limit"] is state["limit"]
    dequantized = dequantize_state(quantized)
    torch.testing.assert_close(dequantized["constant"], state["constant"], rtol=0.0 if scheme == INT8 else 1e-3, atol=0)
    assert torch.equal(dequantized["counts"], state["counts"])


def test_quantized_values_survive_a_second_quantization():
    once = dequantize_state(quantize_state(mixed_state()))
    twice = dequantize_state(quantize_state(once))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@every_scheme
def test_a_quantized_state_is_a_plain_safetensors_file(scheme, tmp_path):
    quantized = quantize_state(mixed_state(), scheme)
    save_file(flatten_state(quantized), tmp_path / "member.safetensors")
    plain = load_file(tmp_path / "member.safetensors")
    found = {name: (plain[name].dtype, tuple(plain[name].shape)) for name in plain if name.startswith("big.")}
    if scheme == INT8:
        scalar = (torch.float64, ())
        assert found == {"big.codes": (torch.int8, (130, 140)), "big.scale": scalar, "big.offset": scalar}
    else:
        numbers = (torch.float16, (1, 140))
        # A plane of two bits, four values per byte, and a plane of one bit.
        codes = (torch.uint8, (130 * 140 // 4 + 130 * 140 // 8,))
        assert found == {"big.codes": codes, "big.scale": numbers, "big.offset": numbers}

    restored = restore(plain, quantized)
    assert restored.keys() == quantized.keys()
    before, after = dequantize_state(quantized), dequantize_state(restored)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("lost", ["big.scale", "big.offset"])
def test_codes_without_scale_or_offset_are_an_error(lost):
    state = quantize_state(mixed_state())
    plain = flatten_state(state)
    del plain[lost]
    with pytest.raises(ModelFileError, match=f"'big.codes' lacks.*{lost}"):
        restore(plain, state)
