"""Back-pressure: so many requests at once, and no more."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.exceptions import HTTPException

_LONGEST_WAIT: Final = 60


class Slots:
    """Room for requests that are received, wait or are worked on.

    Arguments:
        most: requests at once.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._seconds = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a slot for as long as the block runs.

        Raises:
            HTTPException: 429 if all are taken, with the seconds after which one should be free.
        """
        if self.taken >= self.most:
            # Little's law: of n requests that each stay for S seconds, one leaves every S / n.
            wait = min(max(math.ceil(self._seconds / self.most), 1), _LONGEST_WAIT)
            raise HTTPException(429, "too many requests at once; try again later", {"Retry-After": str(wait)})
        self.taken += 1
        start = time.monotonic()
        try:
            yield
        finally:
            self.taken -= 1
            self._seconds += 0.1 * (time.monotonic() - start - self._seconds)
