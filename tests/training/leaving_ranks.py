"""What each of two processes of test_ranks.py runs: `python -m tests.training.leaving_ranks`, some transfers.

Prints the threads left that run gloo's transfers.
"""

import os
from importlib import import_module
from pathlib import Path

import torch

from vidfit import distributed


def threads_of_transfers() -> list[str]:
    """The names of this process's threads that run gloo's transfers."""
    names = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    return [name.strip() for name in names if name.startswith("pt_gloo_runloop")]


def _transfer() -> None:
    distributed.all_reduce_([torch.ones(3), torch.ones(2)])


def _command() -> None:
    import_module("torch._dynamo")  # as torch.onnx does, when a file is packed

    distributed.on_all_ranks(_transfer)


if __name__ == "__main__":
    distributed.run(_command)
    print(threads_of_transfers())
