"""Sums over normalised frames without making the normalised frames.

Pooling families use frames x after a batch norm, `x = frames * scale + shift`, and everything they do with x is linear
or quadratic in it. So scale and shift apply to the `[D, K]` weights and `[B, K, D]` sums instead. The normalised frames
and their gradient, the largest tensors of a training step, never exist; nor do `[B, T, K, D]` residuals.

Shapes: B videos, T frames, D features, K clusters, N = B * T.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormalisedFrames:
    """Frames `x = frames * scale + shift`, as a family sees them.

    Attributes:
        frames_BTD: float32.
        weights_BT: how many times each frame counts, 0 for padding; None means once each.
        scale_D, shift_D: float32.
    """

    frames_BTD: Tensor
    weights_BT: Tensor | None
    scale_D: Tensor
    shift_D: Tensor

    def columns(self, own: slice) -> "NormalisedFrames":
        """The frames of one modality."""
        return NormalisedFrames(self.frames_BTD[..., own], self.weights_BT, self.scale_D[own], self.shift_D[own])

    def values(self) -> Tensor:
        """x itself, float32 `[B, T, D]`."""
        return self.frames_BTD * self.scale_D + self.shift_D

    def times(self, weights_DK: Tensor) -> Tensor:
        """`x W`, float32 `[B, T, K]`."""
        return self.frames_BTD @ (self.scale_D[:, None] * weights_DK) + self.shift_D @ weights_DK

    def affine(self, weights_DK: Tensor, scale_K: Tensor, shift_K: Tensor) -> Tensor:
        """`(x W) * scale_K + shift_K`, float32 `[B, T, K]`, in one pass over the result."""
        biases_K = self.shift_D @ weights_DK * scale_K + shift_K
        frames_ND = self.frames_BTD.flatten(0, 1)
        result_NK = torch.addmm(biases_K, frames_ND, self.scale_D[:, None] * weights_DK * scale_K)
        return result_NK.unflatten(0, self.frames_BTD.shape[:2])

    def residual_sums(self, assign_BTK: Tensor, centres_DK: Tensor | None) -> Tensor:
        """`sum_t w_t a_tk (x_t - c_k)`, float32 `[B, K, D]`; without centres `sum_t w_t a_tk x_t`."""
        mass_BK1, assign_BKT = self._weighted(assign_BTK)
        sums_BKD = assign_BKT @ self.frames_BTD
        offset_KD = self.shift_D if centres_DK is None else self.shift_D - centres_DK.T
        return sums_BKD * self.scale_D + mass_BK1 * offset_KD

    def residual_moments(self, assign_BTK: Tensor, centres_DK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First and second order, float32 `[B, K, D]`, and the mass, `[B, K, 1]`.

        `sum_t w_t a_tk (x_t - c_k)`, `sum_t w_t a_tk (x_t - c_k)^2` and `sum_t w_t a_tk`.
        """
        mass_BK1, assign_BKT = self._weighted(assign_BTK)
        sums_BKD = (assign_BKT @ self.frames_BTD) * self.scale_D
        squares_BKD = (assign_BKT @ self.frames_BTD.square()) * self.scale_D.square()
        # With z = frames * scale and o = shift - centre, the residual is z + o.
        offset_KD = self.shift_D - centres_DK.T
        first_BKD = sums_BKD + mass_BK1 * offset_KD
        return first_BKD, squares_BKD + offset_KD * (sums_BKD + first_BKD), mass_BK1

    def _weighted(self, assign_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """The mass `[B, K, 1]`, and the assignments times the frames' weights, `[B, K, T]`."""
        mass_BK1 = sum_frames(assign_BTK, self.weights_BT)[:, :, None]
        if self.weights_BT is not None:
            assign_BTK = assign_BTK * self.weights_BT[:, :, None]
        return mass_BK1, assign_BTK.transpose(1, 2)


def sum_frames(values_BTK: Tensor, weights_BT: Tensor | None) -> Tensor:
    """`sum_t w_t v_t`, float32 `[B, K]`."""
    if weights_BT is None:
        return values_BTK.sum(dim=1)
    # Autocast runs sums in float32, but products in half precision.
    with torch.autocast(values_BTK.device.type, enabled=False):
        return (weights_BT[:, None] @ values_BTK.float())[:, 0]


def mean_frames(values_BTK: Tensor, weights_BT: Tensor | None) -> Tensor:
    """`sum_t w_t v_t / sum_t w_t`, float32 `[B, K]`."""
    if weights_BT is None:
        return values_BTK.mean(dim=1)
    return sum_frames(values_BTK, weights_BT) / weights_BT.sum(dim=1, keepdim=True)


def exponentials(values_BTK: Tensor, weights_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """`exp(v_t - m)`, float32 `[B, T, K]`, and m, the largest v of a video's real frames, `[B, K]`, as a constant.

    Those of padding are at most 1, whatever its values.
    """
    largest_BK = max_frames(values_BTK, weights_BT).detach().float()
    return (values_BTK.float() - largest_BK[:, None]).clamp_max(0).exp(), largest_BK


def max_frames(values_BTK: Tensor, weights_BT: Tensor | None) -> Tensor:
    """`max_t v_t` over the real frames, float32 `[B, K]`."""
    if weights_BT is None:
        return values_BTK.amax(dim=1)
    return values_BTK.masked_fill((weights_BT == 0)[:, :, None], -torch.inf).amax(dim=1)
