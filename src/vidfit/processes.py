"""A process that ends with the one that started it."""

import multiprocessing
import os
import threading
import time
from typing import Final

# How often a process looks for its parent, if multiprocessing did not start it. Seconds.
_PAUSE: Final = 0.5


def end_with_parent() -> None:
    """End this process when its parent has ended, also where that was killed. Call it in the child."""
    threading.Thread(target=_wait_for, args=(os.getppid(),), daemon=True).start()


def _wait_for(parent: int) -> None:
    if started := multiprocessing.parent_process():
        started.join()
    else:
        while os.getppid() == parent:
            time.sleep(_PAUSE)
    os._exit(1)
