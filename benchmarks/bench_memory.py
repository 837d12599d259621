"""Peak memory of training and of evaluating as the corpus grows: it should not.

Each figure is the largest resident set of one `vidfit` process; what is evaluated is a packed file. Every
training sees the largest corpus once over.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from table import options, publish

RECIPE = """
data: {train: corpus/train, validation: corpus/validation, eval: corpus/eval, vocabulary: corpus/vocabulary.csv}
training: {batch_size: 64, sample_frames: 24, validate_every: 100000, shuffle_buffer: 1024}
members:
  netvlad:
    family: {type: netvlad, clusters: {rgb: 16, audio: 8}, hidden: 64}
    head: {type: logistic}
pack: {budget: 4MB, members: [netvlad]}
"""
MEASURED = """
import resource, sys
from vidfit.cli import main
try:
    main()
finally:
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}", file=sys.stderr)
"""


def peak_megabytes(*arguments: object) -> float:
    """Largest resident set of one `vidfit` command, MB."""
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("peak "))
    return int(line.split()[1]) * 1024 / 1e6


def measure(folder: Path, times: int, videos: int, largest: int) -> dict[str, float]:
    """Both figures for a corpus of `times * videos` training videos and a quarter as many to evaluate."""
    sizes = {"train": times * videos, "validation": 100, "eval": times * videos // 4}
    folder.mkdir()
    synth = [part for name, count in sizes.items() for part in ("--set", f"{name}_videos={count}")]
    peak_megabytes("synth", folder / "corpus", *synth)
    (folder / "recipe.yaml").write_text(RECIPE)
    steps = f"training.steps={largest * videos // 64}"
    training = peak_megabytes("train", folder / "recipe.yaml", "-o", folder / "run", "--set", steps)
    member, model = folder / "run" / "members" / "netvlad", folder / "model.onnx"
    peak_megabytes("pack-members", member, "-o", model, "--budget", "4MB")
    evaluating = peak_megabytes("evaluate", model, folder / "corpus" / "eval")
    return {
        "corpus": times,
        "train videos": sizes["train"],
        "training, MB": training,
        "evaluated videos": sizes["eval"],
        "evaluating, MB": evaluating,
    }


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--videos", type=int, default=3000, help="training videos of the smallest corpus")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 8], help="sizes of the corpora")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(Path(folder) / str(times), times, arguments.videos, max(arguments.times))
            for times in arguments.times
        ]
    publish("peak memory", rows, arguments.json)


if __name__ == "__main__":
    main()
