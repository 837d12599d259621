"""What each of two processes of test_ranks.py runs: some transfers, then a good end or a failure on rank 0.

Prints the threads left that run gloo's transfers: `python -m tests.training.leaving_ranks ends|fails`.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

import torch

from vidfit import distributed
from vidfit.errors import DataError


def transfer(fails: bool) -> None:
    distributed.all_reduce_([torch.ones(3), torch.ones(2)])
    if fails and distributed.rank() == 0:
        raise DataError("a damaged record")
    distributed.all_reduce_([torch.ones(3), torch.ones(2)])


def command(fails: bool) -> None:
    import_module("torch._dynamo")  # as some of PyTorch does when it is first used

    distributed.on_all_ranks(transfer, fails)


if __name__ == "__main__":
    try:
        distributed.run(lambda: command(sys.argv[1] == "fails"))
    finally:
        names = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
        print([name.strip() for name in names if name.startswith("pt_gloo_runloop")])
