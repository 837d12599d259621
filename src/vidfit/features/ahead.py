"""Reading while something else computes: a thread draws what comes next.

ONNX Runtime and PyTorch let other threads run while they compute, so one thread that decodes is enough to keep them
busy and costs no process. For training, where the decoding itself needs several cores, `Batches` has workers.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

Item = TypeVar("Item")
_DEPTH: Final = 2


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, drawn in a thread while those before are in use.

    No more than two are ever ahead, so memory holds three. What the items raise is raised here, in their place.
    """
    iterator = iter(items)

    def draw() -> list[Item]:
        """The next, or nothing at the end."""
        return list(islice(iterator, 1))

    with ThreadPoolExecutor(1) as thread:
        drawn = deque(thread.submit(draw) for _ in range(_DEPTH))
        while item := drawn.popleft().result():
            drawn.append(thread.submit(draw))
            yield from item
