"""What a training video's probabilities should be.

Shapes: B videos, C classes.
"""

from torch import Tensor

from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.training.distillation import SoftTargets


def targets_of(
    batch: Batch, batches: Batches, classes: int, soft_targets: SoftTargets | None
) -> tuple[Tensor, Tensor | None]:
    """The probabilities to learn for each video, float32 `[B, C]`, and their weights if not all are 1.

    They are its labels, mixed with the teachers'. Of a clip they are the ratings of its segment.

    Arguments:
        batch: the videos.
        batches: all training videos.
        classes: C.
        soft_targets: teachers' probabilities.

    Raises:
        DataError: a video has no soft labels.
    """
    if batches.clips:
        return batch.ratings(classes)
    labels_BC = batch.multi_hot(classes)
    if soft_targets is None:
        return labels_BC, None
    try:
        return soft_targets.mixed(batch.ids, labels_BC), None
    except KeyError as error:
        raise soft_targets.incomplete(error.args, batches) from error
