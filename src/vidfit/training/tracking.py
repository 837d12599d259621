"""A training in TensorBoard, for `training.log: tensorboard`. The same figures are in `log.jsonl`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidfit import distributed
from vidfit.errors import VidfitError

Track = Callable[[dict[str, Any]], None]
"""Called with a validation's line: its `step`, and figures by name."""


@contextmanager
def tracking(log: str | None, folder: Path, step: int) -> Iterator[Track]:
    """Within the block, validations are written for TensorBoard, by rank 0.

    Arguments:
        log: `tensorboard`, or None for nothing.
        folder: the member's folder; the files go to its folder `tensorboard`.
        step: where the training stands. What an earlier one wrote of later steps is hidden.

    Raises:
        VidfitError: tensorboard is not installed.
    """
    if log is None or distributed.rank():
        yield lambda line: None
        return
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) as writer:

        def track(line: dict[str, Any]) -> None:
            for name, value in line.items():
                if name != "step":
                    writer.add_scalar(name, value, line["step"])
            writer.flush()

        yield track


def check_tensorboard() -> None:
    """Raises VidfitError if tensorboard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise VidfitError(
            "training.log: tensorboard is not installed; install it with: pip install 'vidfit[tracking]'"
        ) from error
