"""Environment variables that the command line sets before PyTorch is loaded. Importing vidfit sets none.

PyTorch and its OpenMP library read them once. A variable that you set yourself stays as it is.
"""

import os
from typing import Final

DEFAULTS: Final = {
    # Huge pages for large tensors: page faults on a 1.1 GB gradient took a third of NetVLAD's training step.
    "THP_MEM_ALLOC_ENABLE": "1",
    # Threads of PyTorch's libgomp wait for each other in a loop, 300,000 times round by default. Two trainings on the
    # same cores then wait for a thread that has no core: each falls to 21% of its speed. With 1,000 rounds it is 69%.
    # One training alone loses nothing that can be measured (benchmarks/side_by_side.py).
    "GOMP_SPINCOUNT": "1000",
}


def set_defaults() -> None:
    """Set each variable of `DEFAULTS` that is not set yet. Call it before the first import of PyTorch."""
    waits_as_asked = "OMP_WAIT_POLICY" in os.environ  # GOMP_SPINCOUNT would override it
    for name, value in DEFAULTS.items():
        if not (waits_as_asked and name == "GOMP_SPINCOUNT"):
            os.environ.setdefault(name, value)
