"""Which frames are drawn, and mixup."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.models.test_formulas import FORMULAS, build, bytes_of
from vidfit.models.preprocessing import dequantize_frames
from vidfit.models.sampling import fill_up, mix_frames, sample_distinct, sample_frames, sample_sequence

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


def numbered(lengths: list[int]) -> dict[str, Tensor]:
    """Ragged videos whose frames hold the number of the video, and their own number in it."""
    rows = [(video, frame) for video, length in enumerate(lengths) for frame in range(length)]
    return {"video": torch.tensor(rows)[:, :1], "frame": torch.tensor(rows)[:, 1:]}


def numbers(sampled: dict[str, Tensor]) -> list[list[int]]:
    """The frames' numbers in each video's slots; every slot must hold a frame of its own video."""
    assert torch.equal(sampled["video"], torch.arange(len(sampled["video"]))[:, None, None].expand_as(sampled["video"]))
    return sampled["frame"].squeeze(2).tolist()


@pytest.mark.parametrize("case", "abcd")
@pytest.mark.parametrize(
    ("sample", "key"), [(sample_frames, "SampleRandomFrames"), (fill_up, "SampleRandomFrames_sample_all")]
)
def test_golden_sampling(case: str, sample: Callable, key: str, golden_dir: Path) -> None:
    path = golden_dir / "sampling.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as file:
        if f"{case}/{key}" not in file:
            pytest.skip(f"no {case}/{key} in {path}")
        padded, lengths, uniforms = (file[f"{case}/{name}"] for name in ("input", "num_frames", "u_frames"))
        expected, index = file[f"{case}/{key}"], file[f"{case}/frame_index"]
    ragged = np.concatenate([video[:length] for video, length in zip(padded, lengths, strict=True)])
    number = np.concatenate([np.arange(length) for length in lengths])[:, None]
    frames = {"values": torch.from_numpy(ragged), "number": torch.from_numpy(number)}
    sampled = sample(frames, torch.from_numpy(lengths).long(), torch.from_numpy(uniforms))
    np.testing.assert_array_equal(sampled["values"], expected)
    if sample is sample_frames:
        np.testing.assert_array_equal(sampled["number"][..., 0], index)


def test_a_uniform_just_below_one_draws_the_last_frame() -> None:
    """The product with the length must not round up to the length: that would be the next video's frame."""
    num_frames_B = torch.arange(1, 401)
    numbers = torch.cat([torch.arange(length) for length in num_frames_B.tolist()])[:, None]
    uniforms_BS = torch.nextafter(torch.ones(400, 1), torch.zeros(400, 1))
    sampled = sample_frames({"number": numbers}, num_frames_B, uniforms_BS)
    assert torch.equal(sampled["number"][:, 0, 0], num_frames_B - 1)


@given(lengths=LENGTHS, slots=st.integers(1, 40), seed=st.integers(0, 99))
def test_distinct_frames_are_those_of_the_sample(lengths: list[int], slots: int, seed: int) -> None:
    uniforms_BS = torch.from_numpy(np.random.default_rng(seed).random((len(lengths), slots), np.float32))
    frames, num_frames_B = numbered(lengths), torch.tensor(lengths)
    found, weights_BU = sample_distinct(frames, num_frames_B, uniforms_BS)
    for video, counts, sample in zip(
        numbers(found),
        weights_BU.long().tolist(),
        numbers(sample_frames(frames, num_frames_B, uniforms_BS)),
        strict=True,
    ):
        assert sorted(np.repeat(video, counts).tolist()) == sorted(sample)
        drawn = [number for number, count in zip(video, counts, strict=True) if count]
        assert drawn == sorted(set(drawn)) == video[: len(drawn)]
    assert (weights_BU > 0).any(0).all(), "there is no slot that no video needs"


def test_golden_sequences(golden_dir: Path) -> None:
    vectors = np.load(golden_dir / "sampling.npz")
    cases = [key.split("/")[0] for key in vectors if key.endswith("/SampleRandomSequence")]
    assert cases
    for case in cases:
        lengths, expected = vectors[f"{case}/num_frames"], vectors[f"{case}/SampleRandomSequence"]
        videos = [video[:length] for video, length in zip(vectors[f"{case}/input"], lengths, strict=True)]
        frames = {"values": torch.from_numpy(np.concatenate(videos))}
        uniforms_B = torch.from_numpy(vectors[f"{case}/u_sequence"]).flatten()
        found = sample_sequence(frames, torch.from_numpy(lengths).long(), uniforms_B, expected.shape[1])
        np.testing.assert_array_equal(found["values"], expected, err_msg=case)


def test_what_is_drawn_on_the_cpu_goes_where_the_frames_are() -> None:
    frames, num_frames_B = {"a": torch.zeros(7, 2, device="meta")}, torch.tensor([3, 4])
    drawn, weights_BU = sample_distinct(frames, num_frames_B, torch.rand(2, 5))
    others = [
        sample_frames(frames, num_frames_B, torch.rand(2, 5)),
        sample_sequence(frames, num_frames_B, torch.rand(2), 5),
        fill_up(frames, num_frames_B, torch.rand(2, 5)),
    ]
    assert {tensor.device.type for tensor in (weights_BU, *(each["a"] for each in (drawn, *others)))} == {"meta"}


@given(lengths=LENGTHS, slots=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_sequence_is_of_neighbours(lengths: list[int], slots: int, seed: int) -> None:
    uniforms_B = torch.from_numpy(np.random.default_rng(seed).random(len(lengths), np.float32))
    found = numbers(sample_sequence(numbered(lengths), torch.tensor(lengths), uniforms_B, slots))
    for video, length in zip(found, lengths, strict=True):
        assert len(video) == slots
        assert video[-1] < length
        # Neighbours, and once it is at its end a short video's last frame.
        assert all(after == min(before + 1, length - 1) for before, after in pairwise(video))


@given(lengths=LENGTHS, slots=st.integers(1, 40), seed=st.integers(0, 99))
def test_filling_up_keeps_the_frames_and_draws_the_rest(lengths: list[int], slots: int, seed: int) -> None:
    """Also where videos are longer than the slots: of these the first frames."""
    uniforms = np.random.default_rng(seed).random((len(lengths), slots), np.float32)
    found = numbers(fill_up(numbered(lengths), torch.tensor(lengths), torch.from_numpy(uniforms)))
    for video, length, draws in zip(found, lengths, uniforms, strict=True):
        drawn = (draws * np.float32(length)).astype(int)
        assert video == [*range(min(length, slots)), *drawn[length:]]


@given(length=st.integers(1, 40), seed=st.integers(0, 99))
def test_filling_up_a_full_video_changes_nothing(length: int, seed: int) -> None:
    frames = {"a": torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2 * length, 3), np.uint8))}
    filled = fill_up(frames, torch.tensor([length, length]), torch.rand(2, length))
    assert filled["a"].dtype == torch.uint8
    assert torch.equal(filled["a"].flatten(0, 1), frames["a"])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mixing_is_its_formula(dtype: type) -> None:
    random = np.random.default_rng(0)
    stored = {name: random.integers(0, 256, (4, 5, size)).astype(dtype) for name, size in (("a", 3), ("b", 2))}
    weight, partner = np.array([0.0, 0.3, 0.5, 0.9], np.float32), np.array([2, 0, 2, 1])
    frames = {name: torch.from_numpy(array) for name, array in stored.items()}
    mixed = mix_frames(frames, torch.from_numpy(weight), torch.from_numpy(partner))
    assert set(mixed) == set(stored)
    for name, array in stored.items():
        values = array.astype(np.float64)
        if dtype is np.uint8:
            values = values * 4 / 255 + 4 / 512 - 2
        for row, (own, other) in enumerate(zip(weight.astype(np.float64), partner, strict=True)):
            expected = own * values[row] + (1 - own) * values[other]
            np.testing.assert_allclose(mixed[name][row], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(frames[name], array)
        assert mixed[name].dtype == torch.float32


def test_mixing_nothing_in_is_dequantizing_and_a_classifier_takes_it() -> None:
    _, frames = bytes_of((4, 4, 4), seed=0)
    mixed = mix_frames(frames, torch.ones(3), torch.tensor([1, 2, 0]))
    for name, codes in frames.items():
        assert torch.equal(mixed[name], dequantize_frames(codes))
    model = build(FORMULAS["netvlad"][0], {"type": "logistic"}, seed=0).eval()
    torch.testing.assert_close(model(mixed), model(frames), rtol=1e-5, atol=1e-6)
