"""A process that ends with the one that started it."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process when its parent has ended, also where that was killed. Call it in the child."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
