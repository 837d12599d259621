"""Sums over normalised frames that are never made, against the same formulas on made ones, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vidfit.kernels.pooling import NormalisedFrames, exponentials, max_frames, mean_frames, sum_frames

VIDEOS, SIZE, CLUSTERS = 3, 5, 4


class Case:
    """Random frames, assignments and weights in float64, with frames that count twice and some that do not count."""

    def __init__(self, seed: int, frames: int, weighted: bool) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        counts = torch.randint(0, 3, (VIDEOS, frames), generator=generator).double()
        counts[:, 0] = 1
        self.weights_BT = counts if weighted else None
        self.counts_BT1 = (counts if weighted else torch.ones_like(counts))[:, :, None]
        self.assign_BTK, self.centres_DK = normal(VIDEOS, frames, CLUSTERS), normal(SIZE, CLUSTERS)
        scale_D, shift_D = normal(SIZE), normal(SIZE)
        self.frames = NormalisedFrames(normal(VIDEOS, frames, SIZE), self.weights_BT, scale_D, shift_D)
        self.x_BTD = self.frames.frames_BTD * scale_D + shift_D

    def single(self) -> NormalisedFrames:
        """The frames in float32."""
        weights_BT = None if self.weights_BT is None else self.weights_BT.float()
        frames = self.frames
        return NormalisedFrames(frames.frames_BTD.float(), weights_BT, frames.scale_D.float(), frames.shift_D.float())

    def sum(self, values: Tensor) -> Tensor:
        return (values * self.counts_BT1.reshape(*self.counts_BT1.shape, *[1] * (values.dim() - 3))).sum(1)

    @property
    def residuals_BTKD(self) -> Tensor:
        return self.x_BTD[:, :, None] - self.centres_DK.T


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Sums over frames are made in float32."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-4)


cases = given(seed=st.integers(0, 2**31), frames=st.integers(1, 6), weighted=st.booleans())


@cases
def test_products_are_those_of_normalised_frames(seed: int, frames: int, weighted: bool):
    case = Case(seed, frames, weighted)
    weights_DK, scale_K, shift_K = case.centres_DK, torch.arange(4.0).double(), torch.arange(4.0).double() - 2
    torch.testing.assert_close(case.frames.values(), case.x_BTD)
    torch.testing.assert_close(case.frames.times(weights_DK), case.x_BTD @ weights_DK)
    found_BTK = case.frames.affine(weights_DK, scale_K, shift_K)
    torch.testing.assert_close(found_BTK, (case.x_BTD @ weights_DK) * scale_K + shift_K)
    own = slice(1, 3)
    torch.testing.assert_close(case.frames.columns(own).values(), case.x_BTD[:, :, own])


@cases
def test_sums_of_residuals_are_those_of_normalised_frames(seed: int, frames: int, weighted: bool):
    case = Case(seed, frames, weighted)
    parts_BTKD = case.assign_BTK[..., None] * case.residuals_BTKD
    found_BKD = case.single().residual_sums(case.assign_BTK.float(), case.centres_DK.float())
    assert_near(found_BKD, case.sum(parts_BTKD))
    light_BKD = case.single().residual_sums(case.assign_BTK.float(), None)
    expected_BKD = case.sum(case.assign_BTK[..., None] * case.x_BTD[:, :, None])
    assert_near(light_BKD, expected_BKD)


@cases
def test_both_moments_are_those_of_normalised_frames(seed: int, frames: int, weighted: bool):
    case = Case(seed, frames, weighted)
    single = case.single()
    first_BKD, second_BKD, mass_BK1 = single.residual_moments(case.assign_BTK.float(), case.centres_DK.float())
    assign_BTK1 = case.assign_BTK[..., None]
    assert_near(first_BKD, case.sum(assign_BTK1 * case.residuals_BTKD))
    assert_near(second_BKD, case.sum(assign_BTK1 * case.residuals_BTKD.square()))
    assert_near(mass_BK1[..., 0], case.sum(case.assign_BTK))


@cases
def test_sums_means_and_maxima_count_real_frames(seed: int, frames: int, weighted: bool):
    case = Case(seed, frames, weighted)
    values_BTK, weights_BT = case.assign_BTK.float(), None if case.weights_BT is None else case.weights_BT.float()
    total_B1 = case.counts_BT1.sum(1)
    largest_BK = case.assign_BTK.masked_fill(case.counts_BT1 == 0, -torch.inf).amax(1).float()
    assert_near(sum_frames(values_BTK, weights_BT), case.sum(case.assign_BTK).float())
    mean_BK = (case.sum(case.assign_BTK) / total_B1).float()
    assert_near(mean_frames(values_BTK, weights_BT), mean_BK)
    torch.testing.assert_close(max_frames(values_BTK, weights_BT), largest_BK)
    found_BTK, found_BK = exponentials(values_BTK, weights_BT)
    torch.testing.assert_close(found_BK, largest_BK)
    real = (case.counts_BT1 > 0).expand_as(found_BTK)
    assert_near(found_BTK[real], (values_BTK - largest_BK[:, None]).exp()[real])
    assert (found_BTK <= 1).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_sums_are_exact_enough_in_half_precision_too(autocast: bool):
    values_BTK, weights_BT = torch.randn(3, 7, 5), torch.tensor([[1.0] * 7, [2, 0, 3, 1, 0, 0, 0], [1] + [0] * 6])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found_BK = sum_frames(values_BTK, weights_BT)
    assert found_BK.dtype == torch.float32
    expected_BK = (values_BTK.double() * weights_BT[:, :, None]).sum(1)
    torch.testing.assert_close(found_BK.double(), expected_BK, rtol=1e-6, atol=1e-6)


def test_a_frames_gradient_is_its_count():
    values_BTK, weights_BT = torch.randn(2, 3, 4, requires_grad=True), torch.tensor([[2.0, 0, 1], [1, 1, 3]])
    sum_frames(values_BTK, weights_BT).sum().backward()
    assert values_BTK.grad is not None
    torch.testing.assert_close(values_BTK.grad, weights_BT[:, :, None].expand_as(values_BTK))
