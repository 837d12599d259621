"""Which tensors of a state are quantised, and what becomes of them in a safetensors file."""

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidfit.errors import ModelFileError
from vidfit.quantization.codebook import CodebookTensor
from vidfit.quantization.state import (
    MIN_ELEMENTS,
    Quantized,
    dequantize_state,
    flatten_state,
    grids_of,
    quantize_state,
    unflatten_state,
)
from vidfit.quantization.uniform import REFERENCE, Grid, QuantizedTensor

every_form = pytest.mark.parametrize(
    "form", [Grid(bits=8), Grid(bits=3, granularity=64), "quantile", "kmeans"], ids=str
)


def restore(plain: dict[str, torch.Tensor], state: Mapping[str, torch.Tensor | Quantized]):
    return unflatten_state(plain, grids_of(state), {name: tensor.shape for name, tensor in mixed_state().items()})


@every_form
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_an_error_naming_its_tensor(bad, form):
    weights = torch.zeros(MIN_ELEMENTS + 1)
    weights[70] = bad
    with pytest.raises(ModelFileError, match=r"'head\.weights' holds NaN or infinity"):
        quantize_state({"head.weights": weights}, form)


def mixed_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "big": torch.randn(130, 140, generator=generator),
        "limit": torch.randn(MIN_ELEMENTS, generator=generator),
        "constant": torch.full((MIN_ELEMENTS + 1,), 0.3),
        "counts": torch.arange(MIN_ELEMENTS + 1),
    }


@every_form
def test_only_big_float32_tensors_are_quantised(form):
    state = mixed_state()
    quantized = quantize_state(state, form)
    kind = QuantizedTensor if isinstance(form, Grid) else CodebookTensor
    assert {name for name, value in quantized.items() if isinstance(value, kind)} == {"big", "constant"}
    assert quantized["limit"] is state["limit"]
    dequantized = dequantize_state(quantized)
    torch.testing.assert_close(
        dequantized["constant"], state["constant"], rtol=0.0 if form == REFERENCE else 1e-3, atol=0
    )
    assert torch.equal(dequantized["counts"], state["counts"])


@pytest.mark.parametrize("form", [REFERENCE, "kmeans"])
def test_quantised_values_survive_a_second_quantisation(form):
    once = dequantize_state(quantize_state(mixed_state(), form))
    twice = dequantize_state(quantize_state(once, form))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@every_form
def test_a_quantised_state_is_a_plain_safetensors_file(form, tmp_path):
    quantized = quantize_state(mixed_state(), form)
    save_file(flatten_state(quantized), tmp_path / "member.safetensors")
    plain = load_file(tmp_path / "member.safetensors")
    found = {name: (plain[name].dtype, tuple(plain[name].shape)) for name in plain if name.startswith("big.")}
    if form == REFERENCE:
        scalar = (torch.float64, ())
        assert found == {"big.codes": (torch.int8, (130, 140)), "big.scale": scalar, "big.offset": scalar}
    elif isinstance(form, Grid):
        numbers = (torch.float16, (3, 140))
        # A plane of two bits, four values a byte, and one of a bit.
        codes = (torch.uint8, (130 * 140 // 4 + 130 * 140 // 8,))
        assert found == {"big.codes": codes, "big.scale": numbers, "big.offset": numbers}
    else:
        assert found == {"big.codes": (torch.uint8, (130, 140)), "big.codebook": (torch.float32, (256,))}

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


def test_codes_without_their_codebook_are_an_error():
    state = quantize_state(mixed_state(), "quantile")
    plain = flatten_state(state)
    del plain["big.codebook"]
    with pytest.raises(ModelFileError, match=r"'big.codes' lacks.*big\.codebook"):
        restore(plain, state)


@pytest.mark.parametrize(
    "codebook",
    [
        torch.zeros(255),
        torch.zeros(1, 256),
        torch.tensor(0.0),
        torch.zeros(256, dtype=torch.float64),
        torch.arange(256.0).flip(0),
        torch.full((256,), torch.nan),
        torch.tensor([0.0] * 255 + [torch.inf]),
    ],
)
def test_what_is_no_codebook_is_an_error(codebook):
    state = quantize_state(mixed_state(), "kmeans")
    plain = flatten_state(state)
    with pytest.raises(ModelFileError, match=r"'big\.codebook' is not 256 ascending float32 numbers"):
        restore({**plain, "big.codebook": codebook}, state)
