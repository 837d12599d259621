"""Bytes to floats of norm 1, against float64 NumPy."""

import numpy as np
import pytest
import torch

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.preprocessing import dequantize_frames, frame_mask, prepare_frames


def test_every_byte_stands_for_the_middle_of_its_step() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_allclose(dequantize_frames(codes), np.arange(256) * 4 / 255 + 4 / 512 - 2, atol=5e-7)
    assert torch.equal(codes, torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_frames_are_normalised_over_all_modalities_together(dtype: str) -> None:
    modalities = [{"name": "b", "size": 2, "dtype": dtype}, {"name": "a", "size": 3, "dtype": dtype}]
    spec = FeatureSpec.model_validate({"modalities": modalities})
    torch.manual_seed(0)
    frames = {"a": torch.randint(0, 256, (2, 4, 3)), "b": torch.randint(0, 256, (2, 4, 2))}
    frames = {name: codes.to(getattr(torch, dtype)) for name, codes in frames.items()}
    values = np.concatenate([frames["b"].double(), frames["a"].double()], axis=2)
    if dtype == "uint8":
        values = values * 4 / 255 + 4 / 512 - 2
    expected = values / np.linalg.norm(values, axis=2, keepdims=True)
    np.testing.assert_allclose(prepare_frames(frames, spec, None), expected, atol=1e-6)
    expected[0, 1:] = 0
    masked = prepare_frames(frames, spec, frame_mask(torch.tensor([1, 4]), 4))
    np.testing.assert_allclose(masked, expected, atol=1e-6)


def test_a_frame_of_zeros_stays_zero() -> None:
    spec = FeatureSpec(modalities=(Modality(name="a", size=3, dtype="float32"),))
    assert torch.equal(prepare_frames({"a": torch.zeros(1, 1, 3)}, spec, None), torch.zeros(1, 1, 3))
