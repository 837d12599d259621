"""From stored bytes to the frames a family sees: floats, modalities side by side, L2 norm 1, zero where masked.

Frames stay bytes until here, so a batch takes a quarter of its float size.

Shapes: B videos, T frames, D features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.features.spec import FeatureSpec

# Frames with a smaller norm are divided by this instead (the original clamps the squared norm at 1e-12).
SMALLEST_NORM = 1e-6
# The value of one step of a byte, and the value of byte 0 in steps.
_STEP = 4 / 255
OFFSET = (4 / 512 - 2) / _STEP


def dequantize_frames(codes: Tensor) -> Tensor:
    """Turn bytes into values: `x * 4/255 + 4/512 - 2`, the middle of one of 256 steps over [-2, 2].

    Arguments:
        codes: uint8, any shape.

    Returns:
        float32, same shape.

    Source: the YouTube-8M starter code's `Dequantize`.
    """
    return codes.float().add_(OFFSET).mul_(_STEP)


def frame_mask(num_frames_B: Tensor, max_frames: int) -> Tensor:
    """bool `[B, T]`: True in a video's first `num_frames` slots."""
    return torch.arange(max_frames, device=num_frames_B.device) < num_frames_B[:, None]


def prepare_frames(frames: Mapping[str, Tensor], spec: FeatureSpec, mask_BT: Tensor | None) -> Tensor:
    """Turn bytes into floats, put modalities side by side, and divide each frame by its L2 norm over all of them.

    Arguments:
        frames: modality name -> uint8 `[B, T, D_m]`, or float32 at video level (taken as they are).
        spec: modalities in the order of concatenation.
        mask_BT: bool, False in slots after a video's end. None means every slot holds a frame.

    Returns:
        float32 `[B, T, D]`, D = `spec.total_size`; zero where masked.
    """
    stored_BTD = torch.cat([frames[modality.name] for modality in spec.modalities], dim=-1)
    # The step of a byte cancels in the normalisation.
    values_BTD = stored_BTD if stored_BTD.is_floating_point() else stored_BTD.float().add_(OFFSET)
    return values_BTD * inverse_norms(torch.linalg.vector_norm(values_BTD, dim=-1, keepdim=True), mask_BT)


def inverse_norms(norms_BT1: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The factors that give frames of these L2 norms norm 1: float32 `[B, T, 1]`, 0 where masked."""
    factor_BT1 = 1 / norms_BT1.clamp_min(SMALLEST_NORM)
    return factor_BT1 if mask_BT is None else factor_BT1 * mask_BT[:, :, None]


def cut_frames(frames_BTD: Tensor, parts_N3: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of videos as videos of their own: frames `[N, L, D]`, and 1.0 or 0.0 for padding, `[N, L]`.

    Arguments:
        parts_N3: int64, each part's place in the batch, its first frame and the one after its last. No part is empty.
    """
    video_N, first_N, stop_N = parts_N3.unbind(1)
    longest = int((stop_N - first_N).max()) if len(parts_N3) else 1
    places_NL = first_N[:, None] + torch.arange(longest, device=parts_N3.device)
    mask_NL = places_NL < stop_N[:, None]
    return frames_BTD[video_N[:, None], places_NL.where(mask_NL, first_N[:, None])], mask_NL.float()
