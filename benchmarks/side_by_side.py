"""What two commands leave each other on the same cores: training, prediction and packing, alone and side by side.

AudioSet's NetVLAD (recipes/audioset.yaml). `kept` is the speed of the slower of the two beside the speed of one alone.
On a machine that nothing else uses, half is to be expected where one command fills all cores. Each row is one setting
of the environment; `as vidfit sets it` is `vidfit.environment.DEFAULTS`. Settings are measured in turns, each by two
processes.

Run it: `python benchmarks/side_by_side.py --steps 40 --tasks train --settings "as vidfit sets it"`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from table import options, publish

from vidfit.environment import DEFAULTS

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "audioset"
TASKS = ("train", "predict", "pack")
VALIDATION = "validation.tfrecord"
OPENMP = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
SETTINGS = {
    "as vidfit sets it": {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


def prepare(folder: Path, steps: int) -> None:
    """Train NetVLAD for some steps into `folder/run` and pack it as `folder/model.onnx`.

    Validation has 300 videos: the candidates of packing are then ready within a minute.
    """
    from vidfit.export.graph import PackedMember, write_graph
    from vidfit.features.example import write_shard
    from vidfit.features.shards import read_videos
    from vidfit.features.spec import Video
    from vidfit.quantization.member import load_member

    videos = (it for it in read_videos(DATA / "train" / "train15.tfrecord") if isinstance(it, Video))
    write_shard(folder / VALIDATION, islice(videos, 300))
    train(folder / "run", steps, folder / VALIDATION)
    member = load_member(folder / "run" / "members" / "netvlad").quantized()
    write_graph(folder / "model.onnx", [PackedMember(member, 1.0)], 10**9)


def train(directory: Path, steps: int, validation: Path) -> None:
    from vidfit.pipeline import Run
    from vidfit.recipe import load_recipe

    # Without the recipe's distillation, whose teachers would be trained first.
    overrides = (
        f"training.steps={steps}",
        f"training.validate_every={steps}",
        "training.shuffle_buffer=1000",
        "distill=null",
        f"data.validation={validation}",
    )
    Run(load_recipe(ROOT / "recipes" / "audioset.yaml", overrides), directory, members=["netvlad"]).train("netvlad")


def serve(task: str, folder: Path, steps: int) -> None:
    """Do the task once for each line of standard input; answer with the seconds that it took."""
    from vidfit.inference.predictor import load
    from vidfit.search.packer import open_run

    model = load(folder / "model.onnx", parallel_batches=0) if task == "predict" else None
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as fresh:
            run = Path(fresh) / "run"
            if task == "pack":
                shutil.copytree(folder / "run", run)
            begun = time.perf_counter()
            if task == "train":
                train(run, steps, folder / VALIDATION)
            elif task == "pack":
                _ = open_run(run).search.candidates
            elif model:
                for _ in model.predict_shards(str(DATA / "eval" / "*.tfrecord")):
                    pass
            print(time.perf_counter() - begun, file=answers, flush=True)


def seconds(processes: list[subprocess.Popen[str]]) -> float:
    """What the slower of some processes takes that begin at once."""
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.stdout.readline()) for process in processes if process.stdout)


def pair(task: str, name: str, folder: Path, steps: int) -> list[subprocess.Popen[str]]:
    """Two processes under one setting, ready to begin."""
    environment = {key: value for key, value in os.environ.items() if key not in OPENMP}
    command = [sys.executable, __file__, "--serve", task, "--folder", str(folder), "--steps", str(steps)]
    processes = [
        subprocess.Popen(
            command,
            env=environment | DEFAULTS | SETTINGS[name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    return processes


def measure(task: str, names: list[str], folder: Path, steps: int, rounds: int) -> list[dict[str, str | float]]:
    """All settings in turns: what a machine does changes within minutes."""
    pairs = {name: pair(task, name, folder, steps) for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    both: dict[str, list[float]] = {name: [] for name in names}
    for processes in pairs.values():  # the first time reads files and makes memory
        seconds(processes)
    for _ in range(rounds):
        for name, processes in pairs.items():
            alone[name].append(seconds(processes[:1]))
            both[name].append(seconds(processes))
    for processes in pairs.values():
        for process in processes:
            process.communicate()
    return [
        {
            "task": task,
            "setting": name,
            "alone, s": min(alone[name]),
            "side by side, s": min(both[name]),
            "kept": min(alone[name]) / min(both[name]),
        }
        for name in names
    ]


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=100, help="training steps of 256 videos that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="how often each setting is measured; the fastest counts")
    parser.add_argument("--folder", type=Path, help="keep the trained member here, for another call")
    parser.add_argument("--serve", choices=TASKS, help="(internal) be one of the two processes")
    arguments = parser.parse_args()
    if not DATA.exists():
        sys.exit(f"{DATA} is not there: this benchmark needs AudioSet's features")
    if arguments.serve:
        serve(arguments.serve, arguments.folder, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "model.onnx").exists():
            prepare(folder, arguments.steps)
        rows = []
        for task in arguments.tasks:
            rows += measure(task, arguments.settings, folder, arguments.steps, arguments.rounds)
    publish(f"{len(os.sched_getaffinity(0))} cores", rows, arguments.json)


if __name__ == "__main__":
    main()
