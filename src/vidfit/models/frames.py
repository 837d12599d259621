"""From stored bytes to what a family sees: floats, modalities side by side, L2 norm 1 a frame, a mask; frame sampling.

Bytes stay bytes until here, so batches are a quarter of their float size until the model needs them. Frames after a
video's end are zero *after* dequantising; a family never relies on that but on its counts of frames.

Three ways lead from ragged videos to S frames each: drawn at random (`sample_frames`, for training, or `sample_counted`
where their order does not matter), one after another from a random start (`sample_sequence`), or all of them and then
random ones (`fill_up`, how the original predicts).
`mix_frames` blends videos that have S frames each.

Which frames are drawn is reckoned on the CPU, where lengths are known without waiting for a GPU, and then sent to the
frames' device.

Shapes: B videos, T frames, S sampled frames, D features, N frames of all videos together.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.features.batch import sent
from vidfit.features.spec import FeatureSpec

# Below this norm a frame is divided by it instead of by its own (the original clamps the squared norm at 1e-12).
_SMALLEST_NORM = 1e-6
# A byte's step and what zero stands for, in steps.
_STEP = 4 / 255
OFFSET = (4 / 512 - 2) / _STEP


def dequantise(codes: Tensor) -> Tensor:
    """Byte x stands for `x * 4/255 + 4/512 - 2`, the middle of one of 256 steps over [-2, 2].

    Arguments:
        codes: uint8, any shape.

    Returns:
        float32, same shape.

    Source: the YouTube-8M starter code's `Dequantize`.
    """
    return codes.float().add_(OFFSET).mul_(_STEP)


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
    # The norm takes the size of a byte's step away again.
    values_BTD = stored_BTD if stored_BTD.is_floating_point() else stored_BTD.float().add_(OFFSET)
    return values_BTD * inverse_norms(torch.linalg.vector_norm(values_BTD, dim=-1, keepdim=True), mask_BT)


def inverse_norms(norms_BT1: Tensor, mask_BT: Tensor | None) -> Tensor:
    """What frames of these L2 norms are multiplied with: float32 `[B, T, 1]`, 0 where masked."""
    factor_BT1 = 1 / norms_BT1.clamp_min(_SMALLEST_NORM)
    return factor_BT1 if mask_BT is None else factor_BT1 * mask_BT[:, :, None]


def sample_frames(frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor) -> dict[str, Tensor]:
    """Draws S frames of each video with replacement: frame `int(u * num_frames)` for a uniform u in [0, 1).

    Arguments:
        frames: modality name -> `[N, D]`, the videos' frames one after another, on any device.
        num_frames_B: int64, at least 1 each, summing to N; on the CPU, as are the uniforms.
        uniforms_BS: float32.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype; all modalities use the same draw.

    Source: the YouTube-8M starter code's `SampleRandomFrames`.
    """
    return _pick(frames, num_frames_B, _drawn(num_frames_B, uniforms_BS))


def sample_counted(
    frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """The draw of `sample_frames`, each drawn frame once, beside how often it was drawn.

    Of a video of S frames, S draws are of some 0.63 S different ones (`1 - 1/e`), and of a shorter video of fewer: a
    family that does not mind their order has that much less to do for the same result.

    Arguments:
        frames: modality name -> `[N, D]`, the videos' frames one after another, on any device.
        num_frames_B: int64, at least 1 each, summing to N; on the CPU, as are the uniforms.
        uniforms_BS: float32 in [0, 1); a draw is of frame `int(u * num_frames)`.

    Returns:
        Modality name -> `[B, U, D]` of the same dtype, in their order in the video, and float32 counts `[B, U]` that
        sum to S a video. U is the most different frames of any video; of one that has fewer, others follow with
        count 0.

    Source: the YouTube-8M starter code's `SampleRandomFrames`.
    """
    longest = max(num_frames_B.tolist(), default=0)
    drawn_BT = num_frames_B.new_zeros(len(num_frames_B), longest)
    drawn_BT.scatter_add_(1, _drawn(num_frames_B, uniforms_BS), torch.ones_like(uniforms_BS, dtype=torch.long))
    different = max((drawn_BT > 0).sum(1).tolist(), default=0)
    # A stable sort of "was not drawn" has the drawn ones first.
    index_BU = (drawn_BT == 0).to(torch.uint8).sort(dim=1, stable=True).indices[:, :different]
    counts_BU = drawn_BT.gather(1, index_BU).float()
    drawn = _pick(frames, num_frames_B, index_BU.minimum(num_frames_B[:, None] - 1))
    return drawn, sent(counts_BU, next(iter(frames.values())).device)


def sample_sequence(
    frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_B: Tensor, slots: int
) -> dict[str, Tensor]:
    """S neighbouring frames of each video: from frame `int(u * (n - S + 1))` on, or from the first where n < S.

    Arguments:
        frames: modality name -> `[N, D]`, the videos' frames one after another, on any device.
        num_frames_B: int64, n, at least 1 each, summing to N; on the CPU, as are the uniforms.
        uniforms_B: float32 in [0, 1).
        slots: S; a video of fewer frames repeats its last.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype.

    Source: the YouTube-8M starter code's `SampleRandomSequence`.
    """
    starts_B = (uniforms_B * (num_frames_B - slots + 1).clamp_min(1)).long()
    index_BS = starts_B[:, None] + torch.arange(slots)
    return _pick(frames, num_frames_B, index_BS.minimum(num_frames_B[:, None] - 1))


def fill_up(frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor) -> dict[str, Tensor]:
    """Each video's n frames in their order, then frames drawn with replacement until S slots are full.

    Arguments:
        frames: modality name -> `[N, D]`, the videos' frames one after another, on any device.
        num_frames_B: int64, n, at least 1 each, summing to N; on the CPU, as are the uniforms. Of a video longer than S
            its first S frames are taken.
        uniforms_BS: float32 in [0, 1); slot s from n on has frame `int(u_s * n)`.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype; all modalities use the same draw.

    Source: the winners' `SampleRandomFrames` with all frames sampled, how they predict; their reader cuts at S frames.
    """
    slots_S = torch.arange(uniforms_BS.shape[1])
    real_BS = slots_S < num_frames_B[:, None]
    return _pick(frames, num_frames_B, torch.where(real_BS, slots_S, _drawn(num_frames_B, uniforms_BS)))


def _drawn(num_frames_B: Tensor, uniforms_BS: Tensor) -> Tensor:
    """int64 `[B, S]`: a frame's number for each uniform."""
    return (uniforms_BS * num_frames_B[:, None]).long()


def _pick(frames: Mapping[str, Tensor], num_frames_B: Tensor, index_BS: Tensor) -> dict[str, Tensor]:
    """The frames of each video whose numbers within it are given; `[N, D]` -> `[B, S, D]`."""
    starts_B = num_frames_B.cumsum(0) - num_frames_B
    index = sent((index_BS + starts_B[:, None]).flatten(), next(iter(frames.values())).device)
    return {name: values_ND.index_select(0, index).unflatten(0, index_BS.shape) for name, values_ND in frames.items()}


def mix_frames(frames: Mapping[str, Tensor], share_B: Tensor, partner_B: Tensor) -> dict[str, Tensor]:
    """Mixup: video i becomes `share_i * video_i + (1 - share_i) * video_partner(i)`, frame by frame.

    Bytes are dequantised first, and floats stand for themselves in `prepare_frames`: the result goes into a
    `FrameClassifier` as it is. The caller mixes the labels by the same shares.

    Arguments:
        frames: modality name -> uint8 or float32 `[B, S, D]`; every slot holds a frame.
        share_B: float32 in [0, 1].
        partner_B: int64, another video's (or the same one's) row.

    Returns:
        Modality name -> float32 `[B, S, D]`.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412), section 2.
    """
    share_B11 = share_B[:, None, None]
    mixed = {}
    for name, stored_BSD in frames.items():
        values_BSD = stored_BSD if stored_BSD.is_floating_point() else dequantise(stored_BSD)
        mixed[name] = share_B11 * values_BSD + (1 - share_B11) * values_BSD[partner_B]
    return mixed
