"""Files from what a user names (globs, folders, single files), and their division among workers."""

import glob
from collections.abc import Sequence
from pathlib import Path

from vidfit.errors import DataError


def expand_shards(patterns: Sequence[str | Path]) -> list[Path]:
    """Files that the patterns name, sorted and each once.

    Arguments:
        patterns: files, globs (`**` crosses folders), or folders, of which every `*.tfrecord` is taken.

    Raises:
        DataError: a pattern names no file.
    """
    shards: set[Path] = set()
    for pattern in patterns:
        if Path(pattern).is_dir():
            found = sorted(Path(pattern).glob("*.tfrecord"))
            what = "the folder holds no *.tfrecord file"
        elif Path(pattern).is_file():
            found, what = [Path(pattern)], ""
        else:
            found = [Path(match) for match in glob.glob(str(pattern), recursive=True) if Path(match).is_file()]
            what = "no file matches"
        if not found:
            raise DataError(f"shards {str(pattern)!r}: {what}; give TFRecord files, a folder of them or a quoted glob")
        shards.update(found)
    if not shards:
        raise DataError("shards: the list is empty; give TFRecord files, a folder of them or a quoted glob")
    return sorted(shards)


def share_of(shards: Sequence[Path], worker: int, workers: int) -> list[tuple[Path, int, int]]:
    """What one of several workers reads: `(shard, part, parts)`, the records whose number is `part` modulo `parts`.

    Workers take whole shards; where they outnumber the shards, several divide one shard's records among them.
    """
    first = worker % len(shards)
    part, parts = worker // len(shards), len(range(first, workers, len(shards)))
    return [(shard, part, parts) for shard in shards[first::workers]]
