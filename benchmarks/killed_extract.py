"""`vidfit extract` killed at random moments and called again, beside a call that nothing stopped: the same bytes?

Each life is a process group that SIGKILL ends: the command and its workers. Half of the kills come while videos are
embedded, half while tables and shards are written and the embeddings are removed. Some of the files are no videos.

Run it: `python benchmarks/killed_extract.py --clips 1000 --kills 12`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from short_clips import CLIPS, extract_command, write_short_clips
from table import options, publish

# Files of random bytes among the clips.
BROKEN = 5


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--videos", type=Path, default=CLIPS, help="folder of videos to cut clips from")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_short_clips(folder / "clips", arguments.clips, arguments.videos)
        for number in range(BROKEN):
            (folder / "clips" / "some" / f"broken-{number}.mp4").write_bytes(random.randbytes(5000))
        whole, killed = folder / "whole", folder / "killed"
        _finish(extract_command(folder / "clips", whole, arguments.workers))
        command = extract_command(folder / "clips", killed, arguments.workers)
        kills = {"embedding": 0, "writing": 0}
        for number in range(arguments.kills):
            embedding = number < arguments.kills // 2
            changes = random.randint(1, 2 * arguments.clips // arguments.kills) if embedding else random.randint(1, 30)
            if _kill(command, killed, changes, embedding, random):
                kills["embedding" if embedding else "writing"] += 1
        print(_finish(command))
        expected, found = _content(whole), _content(killed)
    different = sorted(path for path in expected | found if expected.get(path) != found.get(path))
    row = {
        "files given": arguments.clips + BROKEN,
        "kills while embedding": kills["embedding"],
        "kills while writing": kills["writing"],
        "files compared": len(expected),
        "bytes": sum(map(len, expected.values())),
        "files that differ": len(different),
    }
    publish("killed and called again", [row], arguments.json)
    if different:
        sys.exit(f"different: {', '.join(different)}")


def _finish(command: list[str]) -> str:
    """Call to the end; returns the last line."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 3:  # some files are no videos
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout.splitlines()[-1]


def _kill(command: list[str], output: Path, changes: int, embedding: bool, random: Random) -> bool:
    """Kill a call after so many changes of its files.

    Arguments:
        embedding: count finished videos; otherwise, changes of tables and shards.

    Returns:
        Whether it was killed before its end.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    before = _state(output, embedding)
    while changes > 0 and process.poll() is None:
        now = _state(output, embedding)
        changes -= len(now ^ before)
        before = now
        time.sleep(0.001)  # leaves the processors to the process
    time.sleep(random.random() * 0.01)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return killed


def _state(output: Path, embedding: bool) -> set[tuple[str, int]]:
    """Names of files, and when each was changed."""
    if embedding:
        return {(path.name, 0) for path in (output / "embeddings").glob("*") if path.suffix in (".npz", ".failed")}
    found = set()
    for path in (*output.glob("*"), *(output / "shards").glob("*")):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns * path.is_file()))
    return found


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    main()
