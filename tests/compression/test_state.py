"""Which tensors of a state are quantised, and what becomes of them in a safetensors file."""

from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidfit.compression import Codebook
from vidfit.compression.codebook import CodebookTensor
from vidfit.compression.quantize import QuantizedTensor
from vidfit.compression.state import MIN_ELEMENTS, dequantize_state, flatten_state, quantize_state, unflatten_state
from vidfit.errors import ModelFileError

every_codebook = pytest.mark.parametrize("codebook", get_args(Codebook))


@every_codebook
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_an_error_naming_its_tensor(bad, codebook):
    weights = torch.zeros(MIN_ELEMENTS + 1)
    weights[70] = bad
    with pytest.raises(ModelFileError, match=r"'head\.weights' holds NaN or infinity"):
        quantize_state({"head.weights": weights}, codebook)


def mixed_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "big": torch.randn(130, 140, generator=generator),
        "limit": torch.randn(MIN_ELEMENTS, generator=generator),
        "constant": torch.full((MIN_ELEMENTS + 1,), 0.3),
        "counts": torch.arange(MIN_ELEMENTS + 1),
    }


@every_codebook
def test_only_big_float32_tensors_are_quantised(codebook):
    state = mixed_state()
    quantized = quantize_state(state, codebook)
    kind = QuantizedTensor if codebook == "uniform" else CodebookTensor
    assert {name for name, value in quantized.items() if isinstance(value, kind)} == {"big", "constant"}
    assert quantized["limit"] is state["limit"]
    dequantized = dequantize_state(quantized)
    assert torch.equal(dequantized["constant"], state["constant"])
    assert torch.equal(dequantized["counts"], state["counts"])


@pytest.mark.parametrize("codebook", ["uniform", "kmeans"])
def test_quantised_values_survive_a_second_quantisation(codebook):
    once = dequantize_state(quantize_state(mixed_state(), codebook))
    twice = dequantize_state(quantize_state(once, codebook))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@every_codebook
def test_a_quantised_state_is_a_plain_safetensors_file(codebook, tmp_path):
    quantized = quantize_state(mixed_state(), codebook)
    save_file(flatten_state(quantized), tmp_path / "member.safetensors")
    plain = load_file(tmp_path / "member.safetensors")
    found = {name: (plain[name].dtype, tuple(plain[name].shape)) for name in plain if name.startswith("big.")}
    if codebook == "uniform":
        scalar = (torch.float64, ())
        assert found == {"big.codes": (torch.int8, (130, 140)), "big.scale": scalar, "big.offset": scalar}
    else:
        assert found == {"big.codes": (torch.uint8, (130, 140)), "big.codebook": (torch.float32, (256,))}

    restored = unflatten_state(plain)
    assert restored.keys() == quantized.keys()
    before, after = dequantize_state(quantized), dequantize_state(restored)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("lost", ["big.scale", "big.offset"])
def test_codes_without_scale_or_offset_are_an_error(lost):
    plain = flatten_state(quantize_state(mixed_state()))
    del plain[lost]
    with pytest.raises(ModelFileError, match=f"'big.codes' lacks.*{lost}"):
        unflatten_state(plain)


def test_codes_without_their_codebook_are_an_error():
    plain = flatten_state(quantize_state(mixed_state(), "quantile"))
    del plain["big.codebook"]
    with pytest.raises(ModelFileError, match=r"'big.codes' lacks.*big\.codebook"):
        unflatten_state(plain)


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
    plain = flatten_state(quantize_state(mixed_state(), "kmeans"))
    with pytest.raises(ModelFileError, match=r"'big\.codebook' is not 256 ascending float32 numbers"):
        unflatten_state({**plain, "big.codebook": codebook})
