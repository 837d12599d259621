"""What a training video's probabilities should be.

Shapes: B videos, C classes.
"""

from torch import Tensor

from vidfit.features.batch import Batch, sent
from vidfit.features.loader import Batches
from vidfit.training.distillation import SoftTargets


def targets_of(
    batch: Batch, batches: Batches, classes: int, soft_targets: SoftTargets | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The probabilities to learn for each video, float32 `[B, C]`, their weights if not all are 1, and parts.

    They are its labels, mixed with the teachers'. For a clip, they are the ratings of its segment. For whole videos
    with rated segments, `parts_N3` says which frames each row is for.

    Arguments:
        batch: the videos.
        batches: all training videos.
        classes: C.
        soft_targets: teachers' probabilities.

    Raises:
        DataError: a video has no soft labels.
    """
    if batches.clips:
        targets_BC, weights_BC = batch.ratings(classes)
        parts_N3 = sent(batches.clips.parts_of(batch), targets_BC.device) if batches.clips.whole else None
        return targets_BC, weights_BC, parts_N3
    labels_BC = batch.multi_hot(classes)
    if soft_targets is None:
        return labels_BC, None, None
    try:
        return soft_targets.mixed(batch.ids, labels_BC), None, None
    except KeyError as error:
        raise soft_targets.incomplete(error.args, batches) from error
