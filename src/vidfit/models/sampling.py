"""Choose which frames of a video a training step sees, and mix videos.

- `sample_frames` draws frames at random. `sample_distinct` makes the same draw, but keeps each drawn frame once.
- `sample_sequence` takes neighbouring frames from a random start.
- `fill_up` takes every frame and fills the remaining slots at random, as the original predicts.
- `mix_frames` blends pairs of videos (mixup).

Frame numbers are drawn on the CPU, where lengths are known, then sent to the frames' device. So nothing waits
for a GPU.

Shapes: B videos, S sampled frames, U distinct frames, D features, N frames of all videos together.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.features.batch import sent
from vidfit.models.preprocessing import dequantize_frames


def sample_frames(frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor) -> dict[str, Tensor]:
    """Draw S frames of each video with replacement: frame `int(u * num_frames)` for a uniform u in [0, 1).

    Arguments:
        frames: modality name -> `[N, D]`, one video after another, on any device.
        num_frames_B: int64, at least 1 each, summing to N; on the CPU, like the uniforms.
        uniforms_BS: float32.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype. All modalities use the same draw.

    Source: the YouTube-8M starter code's `SampleRandomFrames`.
    """
    return _pick(frames, num_frames_B, _drawn(num_frames_B, uniforms_BS))


def sample_distinct(
    frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Make the draw of `sample_frames`, but keep each drawn frame once, with a weight: how often it was drawn.

    S draws from a video of S frames hit about 0.63 S distinct ones (`1 - 1/e`), and fewer from a shorter video. So
    families that ignore the order of frames get the same result with less work.

    Arguments:
        frames: modality name -> `[N, D]`, one video after another, on any device.
        num_frames_B: int64, at least 1 each, summing to N; on the CPU, like the uniforms.
        uniforms_BS: float32 in [0, 1).

    Returns:
        Modality name -> `[B, U, D]` of the same dtype, in the video's order, and frame weights, float32 `[B, U]`, which
        sum to S per video. U is the largest number of distinct frames of any video; unused slots have weight 0.

    Source: the YouTube-8M starter code's `SampleRandomFrames`.
    """
    longest = max(num_frames_B.tolist(), default=0)
    drawn_BT = num_frames_B.new_zeros(len(num_frames_B), longest)
    drawn_BT.scatter_add_(1, _drawn(num_frames_B, uniforms_BS), torch.ones_like(uniforms_BS, dtype=torch.long))
    distinct = max((drawn_BT > 0).sum(1).tolist(), default=0)
    # A stable sort by "was not drawn" puts the drawn frames first.
    index_BU = (drawn_BT == 0).to(torch.uint8).sort(dim=1, stable=True).indices[:, :distinct]
    weights_BU = drawn_BT.gather(1, index_BU).float()
    drawn = _pick(frames, num_frames_B, index_BU.minimum(num_frames_B[:, None] - 1))
    return drawn, sent(weights_BU, next(iter(frames.values())).device)


def sample_sequence(
    frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_B: Tensor, slots: int
) -> dict[str, Tensor]:
    """Take S neighbouring frames of each video of n frames: from `int(u * (n - S + 1))`, or from the first if n < S.

    Arguments:
        frames: modality name -> `[N, D]`, one video after another, on any device.
        num_frames_B: int64, n, at least 1 each, summing to N; on the CPU, like the uniforms.
        uniforms_B: float32 in [0, 1).
        slots: S. Shorter videos repeat their last frame.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype.

    Source: the YouTube-8M starter code's `SampleRandomSequence`.
    """
    starts_B = (uniforms_B * (num_frames_B - slots + 1).clamp_min(1)).long()
    index_BS = starts_B[:, None] + torch.arange(slots)
    return _pick(frames, num_frames_B, index_BS.minimum(num_frames_B[:, None] - 1))


def fill_up(frames: Mapping[str, Tensor], num_frames_B: Tensor, uniforms_BS: Tensor) -> dict[str, Tensor]:
    """Take each video's n frames in order, then draw frames with replacement until S slots are full.

    Arguments:
        frames: modality name -> `[N, D]`, one video after another, on any device.
        num_frames_B: int64, n, at least 1 each, summing to N; on the CPU, like the uniforms. Longer videos are cut
            after S frames.
        uniforms_BS: float32 in [0, 1); slot s >= n gets frame `int(u_s * n)`.

    Returns:
        Modality name -> `[B, S, D]` of the same dtype. All modalities use the same draw.

    Source: the winners' `SampleRandomFrames` with all frames sampled, which is how they predict.
    """
    slots_S = torch.arange(uniforms_BS.shape[1])
    real_BS = slots_S < num_frames_B[:, None]
    return _pick(frames, num_frames_B, torch.where(real_BS, slots_S, _drawn(num_frames_B, uniforms_BS)))


def mix_frames(frames: Mapping[str, Tensor], weight_B: Tensor, partner_B: Tensor) -> dict[str, Tensor]:
    """Mixup: video i becomes `weight_i * video_i + (1 - weight_i) * video_partner(i)`, frame by frame.

    Bytes become floats first. Give the result to `VideoClassifier` as it is, and mix the labels by the same weights.

    Arguments:
        frames: modality name -> uint8 or float32 `[B, S, D]`; every slot holds a frame.
        weight_B: float32 in [0, 1].
        partner_B: int64, the row of another video (or of the same one).

    Returns:
        Modality name -> float32 `[B, S, D]`.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization" (arXiv 1710.09412), section 2.
    """
    weight_B11 = weight_B[:, None, None]
    mixed = {}
    for name, stored_BSD in frames.items():
        values_BSD = stored_BSD if stored_BSD.is_floating_point() else dequantize_frames(stored_BSD)
        mixed[name] = weight_B11 * values_BSD + (1 - weight_B11) * values_BSD[partner_B]
    return mixed


def _drawn(num_frames_B: Tensor, uniforms_BS: Tensor) -> Tensor:
    """int64 `[B, S]`: the frame number for each uniform."""
    return (uniforms_BS * num_frames_B[:, None]).long()


def _pick(frames: Mapping[str, Tensor], num_frames_B: Tensor, index_BS: Tensor) -> dict[str, Tensor]:
    """Frames by their number within each video: `[N, D]` -> `[B, S, D]`."""
    starts_B = num_frames_B.cumsum(0) - num_frames_B
    index = sent((index_BS + starts_B[:, None]).flatten(), next(iter(frames.values())).device)
    return {name: values_ND.index_select(0, index).unflatten(0, index_BS.shape) for name, values_ND in frames.items()}
