"""What each lever of the method is worth on AudioSet: per family and for the ensemble, with confidence intervals.

The members are those of recipes/audioset.yaml at half their width, so that some 160 trainings take about an hour on two
cores. Every arm differs from the arm `+ sampling` in one thing (students on all frames: from labels alone on all
frames). Reported are the mean of the differences, seed by seed, on the eval shards and its 95 % interval (Student's t);
nothing is chosen by these figures. Students start from other weights than their teachers. Teachers out of fold are
trained once and teach all seeds.

Every training leaves its predictions in the work folder; a second call goes on where the first was stopped.
"""

import argparse
import os
import shutil
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy import stats
from table import options, publish

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "audioset.yaml"
MEMBERS = {"netvlad": "netvlad", "netfv": "netfv", "dbof": "dbof-max", "lstm": "lstm"}
NOT_IN_RECIPE = (
    "members.netfv={family: {type: netfv, clusters: 8, hidden: 512, relu: true, gating: false, dropout: 0.6}, "
    "head: {type: logistic, dropout: 0.6}}",
    "members.lstm={family: {type: lstm, cells: 128}, head: {type: logistic, dropout: 0.5}, "
    "training: {learning_rate: 0.002}}",
)
REFERENCE = "+ sampling"
ALL_FRAMES = "base: all frames, no sampling"
FOLDS = 4


@dataclass(frozen=True)
class Arm:
    """One line of the table."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Of the training's settings."""
    teachers: str | None = None
    """The arm whose members teach."""
    within: bool = False
    """Each family teaches itself; else all four together."""
    folds: bool = False
    """The teachers have not seen the videos that they label."""
    after: str | None = None
    """The arm whose trained members it starts from."""
    quantize: bool = False
    """Nothing is trained; the weights of `after` are quantised to 8 bits."""
    against: str = REFERENCE
    """The arm that it is compared to."""
    published: str = ""
    """The change that the method's authors report, GAP (DESIGN.md, section 5)."""


def averaging(method: str) -> dict[str, Any]:
    return {"averaging": {"method": method, "steps": 212, "learning_rate": 0.0002, "ema_decay": 0.99, "keep": "always"}}


ARMS = {
    REFERENCE: Arm(),
    ALL_FRAMES: Arm({"sampling": "none"}, published="-0.0015"),
    "EMA": Arm(
        averaging("ema"), after=REFERENCE, published="NetVLAD +0.0007, NetFV -0.0019, DBoF +0.0022, LSTM +0.0034"
    ),
    "equal-weight averaging": Arm(averaging("equal"), after=REFERENCE, published="-"),
    "distilled once, within": Arm(teachers=REFERENCE, within=True, published="+0.004 to +0.015"),
    "distilled once, across": Arm(teachers=REFERENCE, published="+0.004 to +0.015"),
    "distilled twice, within": Arm(teachers="distilled once, within", within=True, published="+0.004 to +0.015"),
    "distilled twice, across": Arm(teachers="distilled once, across", published="+0.004 to +0.015"),
    "distilled once, across, out of fold": Arm(teachers=REFERENCE, folds=True, published="-"),
    "distilled once, across, all frames": Arm(
        {"sampling": "none"}, teachers=ALL_FRAMES, against=ALL_FRAMES, published="+0.004 to +0.015"
    ),
    "mixup 0.4": Arm({"mixup": 0.4}, published="no gain"),
    "over- and under-sampling 0.5": Arm({"balance": 0.5}, published="no gain"),
    "8 bits": Arm(after=REFERENCE, quantize=True, published="no visible loss"),
}


@dataclass(frozen=True)
class Job:
    """One training, or one set of soft labels."""

    arm: str
    family: str
    seed: int
    fold: int | None = None

    def folder(self, work: Path) -> Path:
        fold = "" if self.fold is None else f"-fold-{self.fold}"
        return work / self.arm.replace(":", "").replace(" ", "-") / f"{self.family}-{self.seed}{fold}"


@cache
def settings():
    """Recipe, spec and vocabulary; imports wait until the number of threads is set."""
    from vidfit.features.shards import expand_shards, infer_spec
    from vidfit.features.spec import Vocabulary
    from vidfit.recipe import load_recipe

    changes = [f"members.{name}.family.hidden=512" for name in ("netvlad", "dbof-max")]
    recipe = load_recipe(RECIPE, (*changes, *NOT_IN_RECIPE))
    shards = {name: expand_shards(getattr(recipe.data, name)) for name in ("train", "validation", "eval")}
    return recipe, shards, infer_spec(shards["train"]), Vocabulary.from_csv(Path(recipe.data.vocabulary))


def work_on(job: Job, work: Path, steps: int) -> None:
    """Train (or average, or quantise) and leave `eval.npy`: probabilities of the eval videos, float16."""
    from vidfit.features.loader import Batches, balanced_copies
    from vidfit.inference.predictor import load
    from vidfit.models.classifier import ClassifierConfig
    from vidfit.quantization.member import quantize_member
    from vidfit.training.checkpoint import BEST, MemberInfo
    from vidfit.training.config import TrainingConfig
    from vidfit.training.distillation import SoftTargets
    from vidfit.training.epochs import label_counts
    from vidfit.training.soft_labels import SoftLabels
    from vidfit.training.trainer import train_member

    folder, arm = job.folder(work), ARMS[job.arm]
    if (folder / "eval.npy").exists():
        return
    recipe, shards, spec, vocabulary = settings()
    classes = len(vocabulary)
    source = Job(arm.after, job.family, job.seed).folder(work) if arm.after else None
    file = folder / BEST
    if arm.quantize:
        assert source
        folder.mkdir(parents=True, exist_ok=True)
        file = quantize_member(source, folder / "quantized.safetensors")
    else:
        if source and not folder.exists():
            shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.npy"))
        member = recipe.members[MEMBERS[job.family]]
        schedule = {"steps": steps, "lr_decay_examples": steps * 256 // 3 + 1, "validate_every": 106}
        sampling = {"sampling": "replacement", "sample_frames": 10}
        training = TrainingConfig.model_validate(
            {**member.training.model_dump(), **schedule, **sampling, **arm.changes}
        )
        paths = (
            shards["train"] if job.fold is None else [p for i, p in enumerate(shards["train"]) if i % FOLDS != job.fold]
        )
        # A student must not start as its teacher did.
        seed = zlib.crc32(f"{job.family} {job.seed} {job.fold} {arm.teachers}".encode())
        copies = None
        if training.balance:
            counts_C, _ = label_counts(Batches(paths, spec, classes, 256, shuffle_buffer=20_000), classes)
            copies = balanced_copies(counts_C, training.balance)
        batches = Batches(paths, spec, classes, 256, shuffle_buffer=training.shuffle_buffer, seed=seed, copies=copies)
        soft_targets = SoftTargets(SoftLabels(soft_labels(job, work), vocabulary.names), 0.5) if arm.teachers else None
        info = MemberInfo(
            name=job.family,
            classifier=ClassifierConfig(encoder=member.encoder, family=member.family, head=member.head),
            spec=spec,
            vocabulary=vocabulary.names,
            step=0,
            gap_validation=None,
        )
        validation = Batches(shards["validation"], spec, classes, 256)
        train_member(info, training, batches, validation, folder, seed, soft_targets=soft_targets)
    predict = load(file).predict_batch
    predicted = [predict(batch) for batch in Batches(shards["eval"], spec, classes, 256)]
    np.save(folder / "eval.partial.npy", np.concatenate(predicted).astype(np.float16))
    os.replace(folder / "eval.partial.npy", folder / "eval.npy")


def soft_labels(student: Job, work: Path) -> Path:
    """Folder of the soft labels that a student learns from."""
    arm = ARMS[student.arm]
    assert arm.teachers
    who = student.family if arm.within else "all"
    seed = 0 if arm.folds else student.seed
    return Job(f"soft labels of {arm.teachers}", f"{who}{'-folds' if arm.folds else ''}", seed).folder(work)


def label(student: Job, work: Path, families: list[str]) -> None:
    """Have a student's teachers label the training videos."""
    from vidfit.features.loader import Batches
    from vidfit.inference.predictor import load
    from vidfit.training.checkpoint import BEST
    from vidfit.training.soft_labels import label_shards

    arm = ARMS[student.arm]
    assert arm.teachers
    _, shards, spec, vocabulary = settings()
    folder = soft_labels(student, work)
    folder.mkdir(parents=True, exist_ok=True)
    for fold in range(FOLDS) if arm.folds else [None]:
        seed = 0 if arm.folds else student.seed
        teaching = [student.family] if arm.within else families
        files = [Job(arm.teachers, family, seed, fold).folder(work) / BEST for family in teaching]
        paths = shards["train"] if fold is None else shards["train"][fold::FOLDS]
        teachers = {file: load(file).predict_batch for file in files}
        label_shards(paths, folder, teachers, vocabulary.names, 20, lambda path: Batches([path], spec, None, 256))


def phases(seeds: int, steps: int, families: list[str], arms: list[str]) -> list[tuple[str, Any, list[Job]]]:
    """What can be done at the same time, in order: a title, a function, its jobs."""

    def jobs(arms: list[str]) -> list[Job]:
        return [Job(arm, family, seed) for arm, seed, family in product(arms, range(seeds), families)]

    def labelled(arms: list[str]) -> list[Job]:
        """One student a set of soft labels."""
        return list({soft_labels(job, Path()): job for job in jobs(arms)}.values())

    learn, teach = partial(work_on, steps=steps), partial(label, families=families)
    alone = [arm for arm in arms if not ARMS[arm].teachers and not ARMS[arm].after and arm != REFERENCE]
    after = [arm for arm in arms if ARMS[arm].after]
    out_of_fold = [arm for arm in arms if ARMS[arm].folds]
    first = [arm for arm in arms if ARMS[arm].teachers == REFERENCE and arm not in out_of_fold]
    second = [arm for arm in arms if ARMS[arm].teachers not in (None, REFERENCE)]
    folds = [Job(REFERENCE, family, 0, fold) for _, family, fold in product(out_of_fold, families, range(FOLDS))]
    return [
        ("labels alone", learn, jobs([REFERENCE])),
        ("soft labels", teach, labelled(first)),
        ("students", learn, jobs(first)),
        ("averages, 8 bits", learn, jobs(after)),
        ("sampling, mixing", learn, jobs(alone)),
        ("soft labels", teach, labelled(second)),
        ("students of students", learn, jobs(second)),
        ("teachers out of fold", learn, folds),
        ("soft labels", teach, labelled(out_of_fold)),
        ("their students", learn, jobs(out_of_fold)),
    ]


def gaps(work: Path, seeds: int, families: list[str], arms: list[str]) -> dict[tuple[str, str], np.ndarray]:
    """GAP by (arm, family or ensemble), one a seed."""
    from vidfit.evaluation.metrics import Metrics
    from vidfit.features.loader import Batches

    _, shards, spec, vocabulary = settings()
    batches = list(Batches(shards["eval"], spec, len(vocabulary), 256))
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    counts = np.concatenate([batch.label_counts.numpy() for batch in batches])

    def gap(predicted: np.ndarray) -> float:
        metrics = Metrics(len(vocabulary))
        metrics.update(predicted.astype(np.float32), labels, counts)
        return metrics.result()["gap"]

    found: dict[tuple[str, str], np.ndarray] = {}
    for arm in track(arms, "measuring"):
        files = {
            (family, seed): Job(arm, family, seed).folder(work) / "eval.npy"
            for family, seed in product(families, range(seeds))
        }
        for family in families:
            found[arm, family] = np.array([gap(np.load(files[family, seed])) for seed in range(seeds)])
        means = [
            np.mean([np.load(files[family, seed]).astype(np.float32) for family in families], axis=0)
            for seed in range(seeds)
        ]
        found[arm, "ensemble"] = np.array([gap(mean) for mean in means])
    return found


def difference(found: dict[tuple[str, str], np.ndarray], arm: str, family: str) -> tuple[np.ndarray, float]:
    """By seed, from what it is compared to (of the reference its GAP); and half the mean's 95 % interval."""
    values = found[arm, family] - (0 if arm == REFERENCE else found[ARMS[arm].against, family])
    return values, stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def rows_of(found: dict[tuple[str, str], np.ndarray]) -> list[dict[str, Any]]:
    """Mean GAP of the reference; of every other arm the mean difference; with half the 95 % interval."""
    columns = dict.fromkeys(family for _, family in found)
    rows = []
    for arm in dict.fromkeys(arm for arm, _ in found):
        row: dict[str, Any] = {"arm": arm}
        for family in columns:
            values, half = difference(found, arm, family)
            row[family] = f"{values.mean():{'' if arm == REFERENCE else '+'}.4f} ± {half:.4f}"
        rows.append({**row, "published": ARMS[arm].published})
    return rows


def plot(found: dict[tuple[str, str], np.ndarray], file: Path) -> None:
    """Differences from the reference, a panel a family."""
    import matplotlib.pyplot as plt

    arms = [arm for arm in dict.fromkeys(arm for arm, _ in found) if arm != REFERENCE][::-1]
    columns = list(dict.fromkeys(family for _, family in found))
    size = (3 * len(columns), 0.35 * len(arms) + 1.4)
    figure, panels = plt.subplots(1, len(columns), figsize=size, sharey=True, sharex=True)
    for panel, family in zip(panels, columns, strict=True):
        for place, arm in enumerate(arms):
            values, half = difference(found, arm, family)
            panel.errorbar(values.mean(), place, xerr=half, fmt="o", color="#1f5fa8", capsize=3, markersize=4)
            panel.plot(values, [place] * len(values), "|", color="#999999")
        panel.axvline(0, color="black", linewidth=0.8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_title(family)
    panels[0].set_yticks(range(len(arms)), arms)
    figure.supxlabel("change of GAP on the eval shards, mean and 95 % interval")
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser: argparse.ArgumentParser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "ablation", help="folder for all trainings")
    parser.add_argument("--plot", type=Path, help="also draw the differences into this file (.svg)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=530, help="of 256 videos, a training")
    parser.add_argument("--families", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument(
        "--arms", nargs="+", choices=[arm for arm in ARMS if arm != REFERENCE], metavar="ARM", help="by default all"
    )
    parser.add_argument("--processes", type=int, default=2, help="trainings at the same time, a core each")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: an interval takes two at least")
    chosen = arguments.arms or list(ARMS)
    chosen = {REFERENCE, *chosen, *(ARMS[arm].against for arm in chosen)}
    arms = [arm for arm in ARMS if arm in chosen]
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(arguments.processes) as pool:
        for title, function, jobs in phases(arguments.seeds, arguments.steps, arguments.families, arms):
            running = [pool.submit(function, job, arguments.work) for job in jobs]
            for future in track(running, title):
                future.result()
    found = gaps(arguments.work, arguments.seeds, arguments.families, arms)
    publish(f"GAP on AudioSet's eval shards, {arguments.seeds} seeds", rows_of(found), arguments.json)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
