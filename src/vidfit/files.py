"""Write whole files or none: write beside the target, rename when finished.

A reader never sees a half-written file. A failure (an exception, a full disk, Ctrl-C, a power cut) leaves the old file
as it was. The content is on the disk (`fsync`) before the file gets its name; otherwise a power cut could keep the name
and lose the content. That takes 10 ms, or as long as the disk takes for gigabytes. The folder is not synchronised, so
a power cut may bring back the old file, which is whole.

The price is room for two versions of the file. Temporary names are `.vidfit-MACHINE-PROCESS-NUMBER.partial`, so no two
processes share one. A killed process leaves its temporary file behind; the next writer in that folder removes it.
"""

import csv
import errno
import glob
import hashlib
import itertools
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import InstanceOf

from vidfit.errors import OutputError

PathText = InstanceOf[str]
"""A path in a pydantic model, whose own `str` refuses the surrogates that stand for bytes that are not UTF-8."""
_ADVICE: Final = {
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some of your quota or choose another place",
    errno.EFBIG: "raise the limit (ulimit -f) or choose another place",
    errno.EACCES: "choose a place where you may write",
    errno.EPERM: "choose a place where you may write",
    errno.EROFS: "choose a place where you may write",
    errno.ENOENT: "its folder or temporary file was removed meanwhile; call again",
    errno.ESTALE: "its folder or temporary file was removed meanwhile; call again",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk or choose another place",
}
_PREFIX: Final = ".vidfit-"
# Leftovers of other machines: whether their process lives cannot be seen from here.
_ABANDONED_SECONDS: Final = 24 * 3600

_numbers = itertools.count()
_in_use: set[str] = set()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; the file gets its real name when the block ends without an exception.

    Raises:
        OutputError: `path` is a folder or a device, its folder does not exist, or writing failed (disk full, no
            permission). An `OSError` that names another file, such as an input read inside the block, passes unchanged.
    """
    path = Path(path)
    check_place(path)
    with temporary(path.parent) as partial:
        try:
            yield partial
            # Some libraries write files that only their owner may read; a model is to be passed on.
            partial.chmod(0o666 & ~_umask())
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            if not _is_of(error, partial):
                raise
            raise cannot_write(path, error) from error


def check_place(path: Path) -> None:
    """Tell before the work whether its result can be written. A full disk shows later.

    Raises:
        OutputError: `path` is a folder or a device, or its folder does not exist or takes no files.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is not a regular file; choose another name")
    check_folder_of(path)


def check_folder_of(path: Path) -> None:
    """Raises OutputError if the folder of `path` does not exist or takes no files."""
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; create it or choose another place")
    with temporary(path.parent) as tried:
        try:
            tried.touch()
        except OSError as error:
            raise cannot_write(path, error) from error


@contextmanager
def replacing_folder(path: Path, mark: str = "") -> Iterator[Path]:
    """Yields an empty folder beside `path` to write to; it gets its real name when the block ends without an exception.

    Arguments:
        path: the folder. An existing one is replaced if it holds the file `mark`. Its parents are created.
        mark: name of a file that the new folder holds, too. Without one, the folder must be new.

    Raises:
        OutputError: `path` exists without `mark`, or writing failed. An `OSError` that names another file passes
            unchanged, as in `replacing`.
    """
    if path.exists() and not (mark and (path / mark).is_file()):
        why = f"holds no {mark}, so it is not replaced" if mark else "exists already"
        raise OutputError(f"{path}: {why}; choose another name")
    make_folder(path.parent)
    check_folder_of(path)
    with temporary(path.parent) as partial, temporary(path.parent) as old:
        try:
            partial.mkdir()
            yield partial
            _swap(partial, path, old)
        except OSError as error:
            if not _is_of(error, partial, path):
                raise
            raise cannot_write(path, error) from error


def _is_of(error: OSError, *places: Path) -> bool:
    """Whether an error is of one of these files or folders; one that names none is. Copies name two files."""
    if error.filename is None:
        return True
    kinds = str | bytes | os.PathLike
    named = [Path(os.fsdecode(it)) for it in (error.filename, error.filename2) if isinstance(it, kinds)]
    return any(name.is_relative_to(place) for name in named for place in places)


def _swap(new: Path, path: Path, old: Path) -> None:
    """Put `new` in the place of `path`, which becomes `old`: removing it takes long, and may be stopped."""
    try:
        if path.exists():
            os.replace(path, old)
        os.replace(new, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        OutputError: it cannot be created, such as where a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{path}: is a file, not a folder; choose another name") from error
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error for an output that cannot be written: why, and what helps in this case."""
    advice = _ADVICE.get(error.errno or 0, "choose another place")
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); {advice}")


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yields a name of a file for libraries that take no path but UTF-8; it holds within the block.

    Raises:
        OSError: the file cannot be opened.
    """
    try:
        name = os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield name


def visible(folder: Path, pattern: str) -> list[Path]:
    """What a glob finds in a folder, sorted and without hidden names: macOS leaves a `._x` beside a file `x`."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def matches(pattern: str) -> list[Path]:
    """What a glob matches, sorted; `**` crosses folders. Folders that it begins with and that exist are taken
    literally, whatever brackets their names have.
    """
    place = Path(pattern)
    folder = next(parent for parent in place.parents if parent.exists())
    found = glob.glob(str(place.relative_to(folder)), root_dir=folder, recursive=True)
    return sorted(folder / match for match in found)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A path in `folder` that no other writer has. Whatever is there at the end is removed."""
    _tidy(folder)
    partial = folder / f"{_PREFIX}{_machine():08x}-{os.getpid()}-{next(_numbers)}.partial"
    _in_use.add(partial.name)
    try:
        yield partial
    finally:
        _in_use.discard(partial.name)
        _remove(partial)


def _tidy(folder: Path) -> None:
    """Remove what killed processes left in a folder."""
    names = [name for name in os.listdir(folder) if name.startswith(_PREFIX)] if folder.is_dir() else []
    for path in (folder / name for name in names):
        with suppress(OSError, ValueError):  # it has its real name by now, or is not ours
            if _is_abandoned(path):
                _remove(path)


def _is_abandoned(path: Path) -> bool:
    machine, process, _ = path.stem.removeprefix(_PREFIX).split("-")
    if int(machine, 16) != _machine() or os.name != "posix":
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    if int(process) == os.getpid():
        return path.name not in _in_use
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's process
        pass
    return False


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file in UTF-8. Bytes of a file's name that are not UTF-8 become `\\udcXX`.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that `write_table` wrote, by the names of its header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def path_in_table(cell: str) -> Path:
    """The path that `write_table` wrote into a cell."""
    return Path(re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda escaped: chr(int(escaped[1], 16)), cell))


def _machine() -> int:
    """A number for where process ids count: this machine, or this container on it."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return zlib.crc32(f"{socket.gethostname()} {processes}".encode())


def _remove(path: Path) -> None:
    # It may never have been made, on a read-only file system too; that failure has been told already.
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
