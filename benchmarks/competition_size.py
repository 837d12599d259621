"""The nine members of recipes/yt8m-1gb.yaml at full size, 1,116 M weights, searched and packed under several budgets.

Weights are trained for some minutes on a generated corpus with YouTube-8M's modalities and number of labels, of short
videos: each member on a ninth of its own and until that is learnt, so that members are about as good as each other and
know different things, as those of a grown ensemble do; what adds nothing the search rightly leaves out.
What is measured is whether the machine bears it, how long the search takes and what it chooses, not how good that is.
All nine are also packed together, equally weighted, at the widths that the search finds for them.
A second call in the same folder skips the training, and whatever the search has kept.
"""

import resource
import shutil
import time
from pathlib import Path
from typing import Any

from table import options, publish

ROOT = Path(__file__).parents[1]
DBOFS = ("dbof-4096", "dbof-6144", "dbof-3684")  # slower to learn, and the fastest a step
SHARE = 240  # training videos of a member
BUDGETS = ("1GB", "500MB", "100MB")


def recipe(folder: Path, steps: int, train: str = ""):
    """The recipe at its own sizes, on a shard of a generated corpus or all of it, for a few steps."""
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
        **{f"data.{name}": corpus / name for name in ("validation", "eval")},
        "data.train": corpus / "train" / train,
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


def main() -> None:
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "competition-size", help="folder, 20 GB")
    parser.add_argument("--steps", type=int, default=40, help="of training, a member; of a DBoF three times as many")
    arguments = parser.parse_args()
    from vidfit.features.shards import expand_shards
    from vidfit.pipeline import Run
    from vidfit.search.packer import Packer
    from vidfit.sizes import parse_size
    from vidfit.training.checkpoint_manager import LAST

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
                "GAP, selecting and confirming": f"{told['gap_selection']:.4f} {told['gap_confirmation']:.4f}"
                if told
                else "",
                "bits": ", ".join(f"{it['name']} {it['bits']:.1f}" for it in told["members"]) if told else "",
            }
        )

    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    whole, run = recipe(arguments.work, arguments.steps), arguments.work / "run"
    for name, share in zip(whole.members, expand_shards([whole.data.train[0]]), strict=True):
        Run(recipe(arguments.work, arguments.steps, share.name), run, members=[name]).train(name)
        (run / "members" / name / LAST).unlink(missing_ok=True)  # moments: twice the weights' bytes
    note("training", begun)
    begun = time.perf_counter()
    packer = Packer(run, whole)
    packer.search.frontier()
    note("candidates and search", begun)
    folder = arguments.work / "packed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for budget in BUDGETS:
        begun = time.perf_counter()
        told = packer.pack(folder / f"{budget}.onnx", parse_size(budget))
        assert told["bytes"] <= parse_size(budget)
        note(f"pack {budget}", begun, told, parse_size(budget))
    everyone = Packer(run, whole, dict.fromkeys(whole.members, 1.0))
    for budget in BUDGETS[:2]:
        begun = time.perf_counter()
        told = everyone.pack(folder / f"all-{budget}.onnx", parse_size(budget))
        note(f"all nine, {budget}", begun, told, parse_size(budget))
    publish("nine members of 1,116 M weights, two cores", rows, arguments.json)


if __name__ == "__main__":
    main()
