"""Bytes to floats, norms, and the sampling of frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.frames import dequantise, frame_mask, prepare_frames, sample_frames


def test_every_byte_stands_for_the_middle_of_its_step() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_allclose(dequantise(codes), np.arange(256) * 4 / 255 + 4 / 512 - 2, atol=5e-7)
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


@pytest.mark.parametrize("case", "abcd")
def test_golden_sampling(case: str, golden_dir: Path) -> None:
    path = golden_dir / "sampling.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as file:
        if f"{case}/input" not in file:
            pytest.skip(f"no case {case} in {path}")
        padded, lengths, uniforms = (file[f"{case}/{key}"] for key in ("input", "num_frames", "u_frames"))
        expected, index = file[f"{case}/SampleRandomFrames"], file[f"{case}/frame_index"]
    ragged = np.concatenate([video[:length] for video, length in zip(padded, lengths, strict=True)])
    number = np.concatenate([np.arange(length) for length in lengths])[:, None]
    frames = {"values": torch.from_numpy(ragged), "number": torch.from_numpy(number)}
    sampled = sample_frames(frames, torch.from_numpy(lengths).long(), torch.from_numpy(uniforms))
    np.testing.assert_array_equal(sampled["values"], expected)
    np.testing.assert_array_equal(sampled["number"][..., 0], index)


def test_a_uniform_just_below_one_draws_the_last_frame() -> None:
    """The product with the length must not round up to the length: that would be the next video's frame."""
    num_frames_B = torch.arange(1, 401)
    numbers = torch.cat([torch.arange(length) for length in num_frames_B.tolist()])[:, None]
    uniforms_BS = torch.nextafter(torch.ones(400, 1), torch.zeros(400, 1))
    sampled = sample_frames({"number": numbers}, num_frames_B, uniforms_BS)
    assert torch.equal(sampled["number"][:, 0, 0], num_frames_B - 1)
