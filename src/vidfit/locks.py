"""One writer per folder: a second process is refused and told who holds the folder.

The lock is `flock` on the file `.vidfit.lock` in the folder. The kernel frees it when its process ends, however it
ends, so a killed process never blocks the next one. Commands that only read take no lock.

On NFS, `flock` works between machines. Where a file system or system has no locks (some Lustre mounts, Windows),
vidfit warns and works without one.
"""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vidfit.errors import OutputError
from vidfit.files import cannot_write, make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK: Final = ".vidfit.lock"
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)

_held: dict[Path, int] = {}
"""Folder -> the open lock file."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs. A missing folder is created, and removed again if it stays empty.

    Under torchrun, one rank locks for all of them.

    Raises:
        OutputError: another process holds the folder, or the folder cannot be written to.
    """
    folder = folder.absolute()
    created = [it for it in (folder, *folder.parents) if not it.exists()]
    file = _acquire(folder)
    _held[folder] = file
    try:
        yield
    finally:
        # Not in a forked child: the lock is its parent's.
        if _held.pop(folder, None) == file:
            # Unlinked while it is held, so that nobody locks a file that is about to vanish.
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(file)
        with suppress(OSError):  # not empty
            for path in created:
                path.rmdir()


def _acquire(folder: Path) -> int:
    """The locked file, open."""
    if folder in _held:  # NFS would grant it twice to one process
        raise _in_use(folder, _owner())
    while True:
        make_folder(folder)
        try:
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if folder.exists():
                raise
            continue  # its last holder has just removed the folder
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            if not _lock(file):
                raise _in_use(folder, os.pread(file, 1000, 0).decode(errors="replace"))
            # The last holder may have removed this file after we opened it. Then it protects nothing.
            if _is_still_there(file, folder / LOCK):
                os.ftruncate(file, 0)
                os.pwrite(file, _owner().encode(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int) -> bool:
    """Whether nobody else has it. True where there are no locks at all."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("this file system has no locks (%s); let no second process write here", error.strerror)
    return True


def _is_still_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _in_use(folder: Path, owner: str) -> OutputError:
    return OutputError(
        f"{folder}: {owner or 'another process'} is writing here; wait until it ends, or choose another output"
    )


def _let_go_after_fork() -> None:
    """Close a child's copies: an open one would hold the lock beyond the parent's life."""
    for file in _held.values():
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_after_fork)
