"""Memory that batches take turns in: fresh pages cost half of what it costs to fill them (benchmarks/LOG.md).

What `Memory` lends is an array like any other, and nobody gives it back. Python counts references. So when the last
array, view or tensor on the memory is gone, the next caller can have it. Memory that somebody still holds is never
written to.
"""

from collections import defaultdict, deque
from typing import Final

import numpy as np

_SPARE: Final = 2
"""Arrays kept a name: a reader is filling one while another is let go of."""


class Memory:
    """Arrays by name, of one row size and dtype a name. Threads may share it."""

    def __init__(self) -> None:
        self._spare: defaultdict[str, deque[np.ndarray]] = defaultdict(lambda: deque(maxlen=_SPARE))

    def __reduce__(self) -> tuple[type["Memory"], tuple[()]]:
        """Another process has its own."""
        return Memory, ()

    def array(self, name: str, rows: int, new_rows: int, like: np.ndarray) -> np.ndarray:
        """An array of any content.

        Arguments:
            name: of what it is for.
            rows: that it has at least.
            new_rows: of a fresh one, where none is left that has so many; no fewer.
            like: has its row size and dtype.
        """
        spare = self._spare[name]
        while spare:
            try:
                memory = spare.pop()
            except IndexError:  # another thread was faster
                break
            if len(memory) >= rows:
                return np.asarray(_Lent(memory, spare))
        # NumPy's, for it asks for huge pages: filling 40 MB of PyTorch's takes four times as long.
        return np.asarray(_Lent(np.empty((new_rows, like.shape[1]), like.dtype), spare))


class _Lent:
    """What an array that is lent has as its base, and with it all its views."""

    def __init__(self, memory: np.ndarray, spare: deque[np.ndarray]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._spare = memory, spare

    def __del__(self) -> None:
        self._spare.append(self._memory)
