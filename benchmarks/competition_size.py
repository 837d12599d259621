"""The nine members of recipes/yt8m-1gb.yaml at full size, 1,116 M weights, searched and packed under several budgets.

Weights are trained for some minutes on a generated corpus with YouTube-8M's modalities and number of labels, of short
videos: each member on a ninth of its own and until that is learnt, so that members are about as good as each other and
know different things, as those of a grown ensemble do; what adds nothing the search rightly leaves out.
What is measured is whether the machine bears it, how long the search takes and what it chooses, not how good that is.
All nine are also packed at the widths of the least divergence in all, whatever the search thinks of them.
A second call in the same folder skips the training, and whatever the search has kept.
"""

import json
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from table import options, publish

if TYPE_CHECKING:
    from vidfit.fitting.packer import Packer
    from vidfit.packing.budget import Ensemble

ROOT = Path(__file__).parents[1]
DBOFS = ("dbof-4096", "dbof-6144", "dbof-3684")  # slower to learn, and the fastest a step
SHARE = 240  # training videos of a member
BUDGETS = ("1GB", "500MB", "100MB")


def recipe(folder: Path, steps: int):
    """The recipe at its own sizes, on a generated corpus and without what takes longer than a few steps."""
    from vidfit.features.synthetic import CorpusConfig, write_corpus
    from vidfit.recipe import load_recipe

    corpus = folder / "corpus"
    if not corpus.exists():
        numbers = {
            "train_videos": 9 * SHARE,
            "videos_per_shard": SHARE,
            "validation_videos": 256,
            "eval_videos": 64,
            "min_frames": 8,
            "max_frames": 16,
            "looks": 1,
            "rgb_words": 60,
            "audio_words": 60,
        }
        # Few labels are frequent and little hides them: they are learnt in so many steps.
        write_corpus(corpus, CorpusConfig(classes=3862, zipf=1.5, distractors=0.3, noise=0.2, **numbers))
    changes = {
        **{f"data.{name}": corpus / name for name in ("train", "validation", "eval")},
        "data.vocabulary": corpus / "vocabulary.csv",
        "training.steps": steps,
        "training.validate_every": steps,
        "training.sample_frames": 16,
        "training.workers": 0,
        "training.learning_rate": 0.0005,
        "training.batch_norm_momentum": 0.1,
        **{f"members.{name}.training.steps": 3 * steps for name in DBOFS},
        "training.averaging": "null",
        "distill": "null",
        "pack.members": "null",
    }
    return load_recipe(ROOT / "recipes" / "yt8m-1gb.yaml", tuple(f"{key}={value}" for key, value in changes.items()))


def all_members(packer: "Packer", budget: int) -> "Ensemble":
    """Every member once, with equal weights, at the widths of the least summed divergence that fit."""
    from vidfit.packing.budget import Ensemble

    divergences = {}
    for name in packer.members:
        kept = json.loads((packer.directory / "packing" / name / "candidates.json").read_text())
        for place, candidate in enumerate(kept["candidates"]):
            divergences[name, place] = candidate["divergence"]
    own: dict[str, list[int]] = {}
    for place, choice in enumerate(packer.choices):
        own.setdefault(choice.member, []).append(place)
    fitting = []
    for multiplier in np.geomspace(1e-14, 1e-4, 2000):  # nats a byte
        chosen = []
        for name, places in own.items():
            costs = [
                divergences[name, number] + multiplier * packer.choices[place].bytes
                for number, place in enumerate(places)
            ]
            chosen.append(places[int(np.argmin(costs))])
        size = sum(packer.choices[place].bytes for place in chosen)
        if size <= 0.999 * budget:  # leaves room for the metadata
            fitting.append((size, tuple(chosen)))
    size, chosen = max(fitting)
    return Ensemble(chosen, (1 / len(chosen),) * len(chosen), size, 0.0, 0.0)


def main() -> None:
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "competition-size", help="folder, 20 GB")
    parser.add_argument("--steps", type=int, default=40, help="of training, a member; of a DBoF three times as many")
    arguments = parser.parse_args()
    from vidfit.fitting.packer import Packer
    from vidfit.packing.size import parse_size
    from vidfit.pipeline import Run
    from vidfit.training.rotation import LAST

    rows: list[dict[str, Any]] = []

    def note(what: str, begun: float, told: dict[str, Any] | None = None, budget: int = 0) -> None:
        rows.append(
            {
                "what": what,
                "seconds": round(time.perf_counter() - begun),
                "peak memory so far, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "bytes": told["bytes"] if told else 0,
                "of": budget,
                "members": len(told["members"]) if told else 0,
                "bits": ", ".join(f"{it['name']} {it['bits']:.1f}" for it in told["members"]) if told else "",
            }
        )

    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    run = Run(recipe(arguments.work, arguments.steps), arguments.work / "run")
    shares = run.shards["train"]
    for name, share in zip(run.names, shares, strict=True):
        run.shards["train"] = [share]
        run.train(name)
        (arguments.work / "run" / "members" / name / LAST).unlink(missing_ok=True)  # moments: twice the weights' bytes
    note("training", begun)
    begun = time.perf_counter()
    packer = Packer(run.directory, run.recipe)
    packer.frontier()
    note("candidates and search", begun)
    folder = arguments.work / "packed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for budget in BUDGETS:
        begun = time.perf_counter()
        told = packer.pack(folder / f"{budget}.onnx", parse_size(budget))
        assert told["bytes"] <= parse_size(budget)
        note(f"pack {budget}", begun, told, parse_size(budget))
    for budget in BUDGETS[:2]:
        begun = time.perf_counter()
        path = folder / f"all-{budget}.onnx"
        members = packer.write(path, all_members(packer, parse_size(budget)), parse_size(budget))
        note(f"all nine, {budget}", begun, {"bytes": path.stat().st_size, "members": members}, parse_size(budget))
    publish("nine members of 1,116 M weights, two cores", rows, arguments.json)


if __name__ == "__main__":
    main()
