"""The nine members of recipes/yt8m-1gb.yaml at full size, 1,116 M weights, searched and packed under several budgets.

Weights are trained for some minutes on a generated corpus of short videos, with YouTube-8M's modalities and as long a
vocabulary, of which 45 labels are in use. Trained so little, one member may know all that the others know, and the
search then rightly packs hardly any other: so each is left its own five labels, a ninth of what there is to know, and
is needed. What is measured is whether the machine bears it, how long the search takes and what it chooses, not how good
that is.
A second call in the same folder skips the training, and whatever the search has kept.
"""

import resource
import shutil
import time
from pathlib import Path
from typing import Any

from table import options, publish

ROOT = Path(__file__).parents[1]
QUICK = ("dbof-4096", "dbof-6144", "dbof-3684", "lstm-a", "lstm-b", "gru")  # a step, but slower to learn
CLASSES, IN_USE = 3862, 45
NEVER = -30.0  # a logit
BUDGETS = ("1GB", "500MB", "100MB")


def recipe(folder: Path, steps: int):
    """The recipe at its own sizes, on a generated corpus and without what takes longer than a few steps."""
    from vidfit.features.synthetic import CorpusConfig, write_corpus
    from vidfit.recipe import load_recipe

    corpus = folder / "corpus"
    if not corpus.exists():
        numbers = {
            "train_videos": 2048,
            "validation_videos": 256,
            "eval_videos": 64,
            "min_frames": 8,
            "max_frames": 16,
            "looks": 1,
        }
        # All labels are frequent and little hides them: they are learnt in so many steps.
        write_corpus(corpus, CorpusConfig(classes=IN_USE, zipf=0, distractors=0.3, noise=0.2, **numbers))
        rows = [f"{label},label {label}\n" for label in range(CLASSES)]
        (corpus / "vocabulary.csv").write_text("label_id,label_name\n" + "".join(rows))
    changes = {
        **{f"data.{name}": corpus / name for name in ("train", "validation", "eval")},
        "data.vocabulary": corpus / "vocabulary.csv",
        "training.steps": steps,
        "training.validate_every": steps,
        "training.sample_frames": 16,
        "training.workers": 0,
        "training.learning_rate": 0.001,
        "training.batch_norm_momentum": 0.1,
        **{f"members.{name}.training.steps": 3 * steps for name in QUICK},
        "training.averaging": "null",
        "distill": "null",
        "pack.members": "null",
    }
    return load_recipe(ROOT / "recipes" / "yt8m-1gb.yaml", tuple(f"{key}={value}" for key, value in changes.items()))


def specialise(file: Path, place: int, members: int) -> None:
    """Have a member deny all labels but each so-many-th."""
    import torch

    from vidfit.compression.member import load_member

    member = load_member(file)
    classes = len(member.info.vocabulary)
    for name, tensor in member.state.items():
        if name in ("head.classifier.biases", "head.classifier.expert_biases"):
            assert isinstance(tensor, torch.Tensor)
            labels = torch.arange(classes).repeat_interleave(len(tensor) // classes)
            tensor[labels % members != place] = NEVER
    member.save(file)


def main() -> None:
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "competition-size", help="folder, 20 GB")
    parser.add_argument("--steps", type=int, default=16, help="of training; three times as many where they are quick")
    arguments = parser.parse_args()
    from vidfit.fitting.packer import Packer
    from vidfit.packing.size import parse_size
    from vidfit.pipeline import Run
    from vidfit.training.checkpoint import BEST, LAST

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
    for place, name in enumerate(run.names):
        run.train(name)
        folder = arguments.work / "run" / "members" / name
        (folder / LAST).unlink(missing_ok=True)  # moments: twice the weights' bytes
        specialise(folder / BEST, place, len(run.names))
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
    publish("nine members of 1,116 M weights, two cores", rows, arguments.json)


if __name__ == "__main__":
    main()
