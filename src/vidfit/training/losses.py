"""What training minimises.

Shape suffixes: B videos, C classes.
"""

from torch import Tensor

EPSILON = 1e-5


def cross_entropy(probabilities_BC: Tensor, labels_BC: Tensor, videos: int | None = None) -> Tensor:
    """Binary cross-entropy, summed over the classes and averaged over the batch; a scalar in nats.

    The constant inside both logs is part of the method: a probability of 0 or 1 costs at most 11.5 nats a class, where
    the usual clamped or logit form would go on rising.

    Arguments:
        probabilities_BC: float `[B, C]` in [0, 1].
        labels_BC: `[B, C]` of the same dtype, 1 where the video has the label and 0 elsewhere.
        videos: of the whole batch, where these are a part of it: the parts' values add up to the whole's.

    Source: YouTube-8M starter code, `CrossEntropyLoss`.
    """
    present_BC = labels_BC * (probabilities_BC + EPSILON).log()
    absent_BC = (1 - labels_BC) * (1 - probabilities_BC + EPSILON).log()
    return -(present_BC + absent_BC).sum(dim=1).sum() / (len(labels_BC) if videos is None else videos)
