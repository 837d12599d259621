"""Whole files or none: write beside the target, rename when finished.

A reader never sees a half-written file, and a failure (an exception, a full disk, Ctrl-C, a power cut) leaves whatever
stood there before. A file gets its name only when its content is on the disk (`fsync`): without that, file systems may
keep a rename through a power cut and lose the content. It takes 10 ms, or the time that the disk takes for gigabytes.
The folder is not synchronised, so a power cut may bring the version before back, which is whole.
Traded away: room for two versions of the file while it is being written. A killed process leaves its `.NAME.partial`
behind; the next writer of the same file reuses that name, so such leftovers never pile up. Two processes must not write
the same file at the same time.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vidfit.errors import OutputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; the file gets its real name when the block ends without an exception.

    Raises:
        OutputError: `path` is a folder or a device, its folder does not exist, or writing failed (disk full, no
            permission). An `OSError` that names another file, such as an input read inside the block, passes unchanged.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is not a regular file; choose another name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; create it or choose another place")
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        # Some libraries write files that only their owner may read; a model is to be passed on.
        partial.chmod(0o666 & ~_umask())
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise
        reason = error.strerror or error
        raise OutputError(f"{path}: cannot be written ({reason}); free some space or choose another place") from error
    finally:
        # It may never have been made, on a read-only file system too; that failure has been told already.
        with suppress(OSError):
            partial.unlink()


@contextmanager
def replacing_folder(path: Path, mark: str) -> Iterator[Path]:
    """Yields an empty folder beside `path` to write to; it gets its real name when the block ends without an exception.

    Arguments:
        path: the folder. One that stands there is removed at the end, if it holds what the new one does.
        mark: name of a file by which that is told.

    Raises:
        OutputError: `path` is something else, its folder does not exist, or writing failed.
    """
    if path.exists() and not (path / mark).is_file():
        raise OutputError(f"{path}: holds no {mark}, so it is not replaced; choose another name")
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another place"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        OutputError: it cannot be made, such as where a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made a folder ({error.strerror}); choose another") from error


def visible(folder: Path, pattern: str) -> list[Path]:
    """What a glob finds in a folder, sorted and without hidden names: macOS leaves a `._x` beside a file `x`."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
