"""Environment variables that the command line sets before PyTorch is loaded. Importing vidfit sets none.

PyTorch and its OpenMP library read them once. A variable that you set yourself stays as it is.
"""

import os
from typing import Final

DEFAULTS: Final = {
    # Huge pages for large tensors: page faults on a 1.1 GB gradient took a third of NetVLAD's training step.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def set_defaults() -> None:
    """Set each variable of `DEFAULTS` that is not set yet. Call it before the first import of PyTorch."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
