"""The training loss.

Shapes: B videos, C classes.
"""

from torch import Tensor

EPSILON = 1e-5


def cross_entropy(
    probabilities_BC: Tensor, labels_BC: Tensor, videos: int | None = None, weights_BC: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy, summed over classes and averaged over the batch; a scalar in nats.

    The constant in both logs belongs to the method. It limits the loss of a wrong 0 or 1 to 11.5 nats per class, where
    the usual clamped or logit form would keep growing.

    Arguments:
        probabilities_BC: float `[B, C]` in [0, 1].
        labels_BC: `[B, C]` of the same dtype, 1 for labels the video has and 0 elsewhere.
        weights_BC: how much each label counts, `[B, C]` of the same dtype; None means 1.
        videos: size of the whole batch if these are a part of it. The parts' losses then add up to the whole's.

    Source: YouTube-8M starter code, `CrossEntropyLoss`.
    """
    present_BC = labels_BC * (probabilities_BC + EPSILON).log()
    absent_BC = (1 - labels_BC) * (1 - probabilities_BC + EPSILON).log()
    sums_BC = present_BC + absent_BC if weights_BC is None else weights_BC * (present_BC + absent_BC)
    return -sums_BC.sum(dim=1).sum() / (len(labels_BC) if videos is None else videos)
