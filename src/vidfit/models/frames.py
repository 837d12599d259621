"""From stored bytes to what a family sees: floats, modalities side by side, L2 norm 1 a frame, a mask; frame sampling.

Bytes stay bytes until here, so batches are a quarter of their float size until the model needs them. Frames after a
video's end are zero *after* dequantising; a family never relies on that but on the mask.

Shapes: B videos, T frames, S sampled frames, D features, N frames of all videos together.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.features.spec import FeatureSpec

# Below this norm a frame is divided by it instead of by its own (the original clamps the squared norm at 1e-12).
_SMALLEST_NORM = 1e-6


def dequantise(codes: Tensor) -> Tensor:
    """Byte x stands for `x * 4/255 + 4/512 - 2`, the middle of one of 256 steps over [-2, 2].

    Arguments:
        codes: uint8, any shape.

    Returns:
        float32, same shape.

    Source: the YouTube-8M starter code's `Dequantize`.
    """
    return codes.float().mul_(4 / 255).add_(4 / 512 - 2)


def frame_mask(num_frames_B: Tensor, max_frames: int) -> Tensor:
    """bool `[B, T]`: True where a slot holds one of the video's frames (its first `num_frames` slots)."""
    return torch.arange(max_frames, device=num_frames_B.device) < num_frames_B[:, None]


def prepare_frames(frames: Mapping[str, Tensor], spec: FeatureSpec, mask_BT: Tensor | None) -> Tensor:
    """Dequantises, concatenates the modalities and divides each frame by its L2 norm over all of them together.

    Arguments:
        frames: modality name -> uint8 `[B, T, D_m]`, or float32 at video level (floats stand for themselves).
        spec: modalities in the order of concatenation.
        mask_BT: bool, False in slots after a video's end; None where every slot holds a frame.

    Returns:
        float32 `[B, T, D]`, D = `spec.total_size`; zero where masked.
    """
    stored_BTD = torch.cat([frames[modality.name] for modality in spec.modalities], dim=-1)
    values_BTD = stored_BTD if stored_BTD.is_floating_point() else dequantise(stored_BTD)
    factor_BT1 = 1 / torch.linalg.vector_norm(values_BTD, dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)
    if mask_BT is not None:
        factor_BT1 = factor_BT1 * mask_BT[:, :, None]
    return values_BTD * factor_BT1


def sample_frames(frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor) -> dict[str, Tensor]:
    """Draws S frames of each video with replacement: frame `int(u * num_frames)` for a uniform u in [0, 1).

    Arguments:
        frames: modality name -> `[N, D]`, the videos' frames one after another.
        num_frames_B: int64, at least 1 each, summing to N.
        uniforms_BS: float32.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype; all modalities use the same draw.

    Source: the YouTube-8M starter code's `SampleRandomFrames`.
    """
    starts_B = num_frames_B.cumsum(0) - num_frames_B
    drawn_BS = (uniforms_BS * num_frames_B[:, None]).long()
    index = (drawn_BS + starts_B[:, None]).flatten()
    return {
        name: values_ND.index_select(0, index).unflatten(0, uniforms_BS.shape) for name, values_ND in frames.items()
    }
