"""Reading while something else computes: threads draw what comes next.

ONNX Runtime and PyTorch let other threads run while they compute. So do reading and copying. One thread is enough to
keep a CPU busy with predicting. Training reads with the workers of `Batches`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Final, TypeVar

Item = TypeVar("Item")
_DEPTH: Final = 2


def read_ahead(*sources: Iterable[Item]) -> Iterator[Item]:
    """The items of all sources, one of each in turn, drawn in a thread a source while those before are in use.

    No more than two of a source are ever ahead, so memory holds three. What a source raises is raised here, in the
    item's place; one that ends leaves the turns to the others.
    """
    with ExitStack() as threads:
        turns = deque()
        for iterator in map(iter, sources):
            thread = threads.enter_context(ThreadPoolExecutor(1))
            turns.append((thread, iterator, deque(thread.submit(_next, iterator) for _ in range(_DEPTH))))
        while turns:
            thread, iterator, drawn = turns.popleft()
            if item := drawn.popleft().result():
                drawn.append(thread.submit(_next, iterator))
                turns.append((thread, iterator, drawn))
                yield from item


def _next(iterator: Iterator[Item]) -> list[Item]:
    """The next item, or nothing at the end."""
    return list(islice(iterator, 1))
