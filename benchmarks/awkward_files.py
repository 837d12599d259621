"""What `vidfit extract` reads of awkward files: the pictures, the sound, and what it says.

The files are those of the tests (`tests/videos/awkward.py`), made anew. A picture is taken in the middle of each
second, sound from its start.

Run it: `python benchmarks/awkward_files.py`.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from table import options, publish

from vidfit.errors import DataError
from vidfit.videos.decode import Picture, Reading, Sampling, Sound, read_steps


def read(path: Path) -> dict[str, str]:
    sampling, reading = Sampling(picture_size=32), Reading()
    try:
        events = list(read_steps(path, sampling, reading))
    except DataError as error:
        return {"pictures at, s": "-", "sound, s": "-", "said": str(error).removeprefix(f"{path}: ")}
    pictures = [event.step for event in events if isinstance(event, Picture)]
    sounds = [event.step for event in events if isinstance(event, Sound)]
    return {
        "pictures at, s": _ranges(pictures, sampling.picture_time, sampling.picture_time),
        "sound, s": _ranges(sounds, 0, 1),
        "said": "; ".join(reading.notes),
    }


def _ranges(steps: Sequence[int], first: float, last: float) -> str:
    """Runs of steps, in seconds: from `first` in the first step to `last` in the last one."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    ends = [(f"{run[0] + first:g}", f"{run[-1] + last:g}") for run in runs]
    return ", ".join(begin if begin == end else f"{begin} to {end}" for begin, end in ends) or "none"


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.videos.awkward import AWKWARD

    parser = options(__doc__ or "")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for number, (what, make) in enumerate(AWKWARD.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            rows.append({"file": what, **read(make(folder))})
    publish("awkward files", rows, arguments.json)


if __name__ == "__main__":
    main()
