"""How many files a reader opens between `vidfit run` and the first training step.

    python benchmarks/first_step.py [SRC]      SRC: `src` of another checkout, to compare with

It runs a small recipe and notes each function of vidfit at its first call, if vidfit calls it itself. A stop is a stay
in a file. A return is a stop in a file that was left before. Only the files that decide what happens next count: the
command, the recipe, the run and the training. A reader looks up the others by their names: the rooms that training uses
(features, models, ...) and the tools of every room (files, progress, ...).
"""

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import FrameType

ROOMS = {"features", "models", "kernels", "videos", "evaluation", "inference", "runtime", "export", "packing", "search"}
TOOLS = {"files", "progress", "display", "distributed", "ranks", "locks", "errors", "sizes", "checksum", "strict_yaml"}
STEPS = {"TrainStep.__call__", "Learner.step"}  # the second: before 0.2.0

RECIPE = """
data: {train: corpus/train, validation: corpus/validation, eval: corpus/eval, vocabulary: corpus/vocabulary.csv}
members:
  netvlad:
    family: {type: netvlad, clusters: {rgb: 4, audio: 4}, hidden: 16}
    head: {type: logistic}
    training: {steps: 2, batch_size: 8, sample_frames: 8}
pack: {budget: 2MB, members: [netvlad]}
"""


def main(source: Path) -> None:
    """Run, and print the stops until the first step."""
    sys.path.insert(0, str(source))
    import vidfit
    import vidfit.pipeline
    from vidfit.features.synthetic import CorpusConfig, write_corpus

    try:
        command = import_module("vidfit.cli.runs")
    except ImportError:
        command = import_module("vidfit.cli")  # before 0.2.0
    package, functions = Path(vidfit.__file__).parent, dict[tuple[str, str], None]()

    def note(frame: FrameType, event: str, _: object) -> None:
        code, caller = frame.f_code, frame.f_back
        path, name = Path(code.co_filename), code.co_qualname
        if event != "call" or caller is None or not path.is_relative_to(package) or name.endswith(">"):
            return
        called_here = Path(caller.f_code.co_filename).is_relative_to(package) or name == "run"
        file = str(path.relative_to(package).with_suffix(""))
        if called_here and not {file.split("/")[0], file.split("/")[-1]} & (ROOMS | TOOLS | {"terminal"}):
            functions.setdefault((file, name))
        if name in STEPS:
            sys.setprofile(None)
            _print(list(functions))
            os._exit(0)

    folder = Path(tempfile.mkdtemp())
    write_corpus(folder / "corpus", CorpusConfig(train_videos=64, validation_videos=32, eval_videos=32))
    (folder / "recipe.yaml").write_text(RECIPE)
    sys.setprofile(note)
    command.run(folder / "recipe.yaml", folder / "run")


def _print(functions: list[tuple[str, str]]) -> None:
    stops: list[tuple[str, list[str]]] = []
    for file, name in functions:
        if not stops or stops[-1][0] != file:
            stops.append((file, []))
        stops[-1][1].append(name.replace(".<locals>", ""))
    for number, (file, names) in enumerate(stops, start=1):
        print(f"{number:3}  {file}: {', '.join(names)}")
    files = {file for file, _ in stops}
    print(f"{len(stops)} stops in {len(files)} files, {len(stops) - len(files)} returns", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "src").resolve())
