"""Training a member of a run, after its teachers.

What is trained and recorded already is not trained again (stages.py), so a second call resumes.
"""

import logging
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidfit import distributed
from vidfit.errors import OutputError
from vidfit.features.clips import Clips
from vidfit.features.loader import Batches, balanced_copies
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.features.survey import digests
from vidfit.files import make_folder
from vidfit.inference.distributed_jobs import soft_label
from vidfit.lineage import TrainingJob
from vidfit.preflight import check_ids_of_shards
from vidfit.progress import OnProgress, Progress, counter, log_skipped
from vidfit.recipe import Recipe
from vidfit.run_data import RunData
from vidfit.stages import Stages
from vidfit.training.checkpoint import BEST
from vidfit.training.checkpoint_manager import CHECKPOINTS
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import SoftTargets
from vidfit.training.epochs import label_counts
from vidfit.training.progress_meter import Progress as TrainingProgress
from vidfit.training.soft_labels import SoftLabels, soft_labels_file
from vidfit.training.trainer import train_member

log = logging.getLogger(__name__)


class TrainingJobs:
    """The trainings of a run, each in its folder.

    Arguments:
        recipe: what to do.
        data: its data, checked.
        directory: the run folder.
        stages: what is done in it.
        on_progress: called a few times a second.
    """

    def __init__(self, recipe: Recipe, data: RunData, directory: Path, stages: Stages, on_progress: OnProgress) -> None:
        self._recipe, self._data, self._directory = recipe, data, directory
        self._stages, self._on_progress = stages, on_progress

    def run(self, job: TrainingJob) -> dict[str, Any]:
        """Train a member or a teacher, after its own teachers.

        Returns:
            Its best validation GAP, `gap_validation`, and the `step` it was reached at. Without validation videos None,
            and the last step.
        """
        folder = self._directory / job.folder
        if self._is_other(job):
            shutil.rmtree(folder)
        make_folder(folder)
        return self._stages.do(f"train {job.title}", job.lineage, [folder / BEST], lambda: self._train(job, folder))

    def _train(self, job: TrainingJob, folder: Path) -> dict[str, Any]:
        soft_labels = self._soft_labels(job)
        member, data, title = self._recipe.members[job.name], self._data, job.title
        clips, validation = data.clips.get(job.name), data.shards["validation"]
        # Members of the same architecture must not start from the same weights.
        seed = self._recipe.seed * 65_537 + zlib.crc32(title.encode()) % 65_537
        soft_targets = None
        if soft_labels and self._recipe.distill:
            soft_targets = SoftTargets(SoftLabels(soft_labels, data.vocabulary.names), self._recipe.distill.weight)
        progress = _ProgressOfTraining(title, self._on_progress)
        batches = self._training_batches(member.training, job.shards, seed, clips)
        best = distributed.on_all_ranks(
            train_member,
            data.member_info(job.name, member),
            member.training,
            batches,
            data.batches(validation, clips=clips) if validation else None,
            folder,
            seed,
            soft_targets=soft_targets,
            rank_0_only={
                "on_progress": progress,
                "on_pooled": counter(self._on_progress, f"pooling the frames for {title}", "videos"),
                "log": lambda line: log.info("%s: %s", title, line),
            },
        )
        log_skipped(title, progress.skipped)
        if best.gap_validation is None:
            log.info("%s: trained for %d steps", title, best.step)
        else:
            log.info("%s: best validation GAP %.4f at step %d", title, best.gap_validation, best.step)
        return {"step": best.step, "gap_validation": best.gap_validation}

    def _training_batches(
        self, training: TrainingConfig, shards: list[Path], seed: int, clips: Clips | None
    ) -> Batches:
        reading = {
            "clips": clips,
            "batch_size": training.batch_size,
            "shuffle_buffer": training.shuffle_buffer,
            "seed": seed,
            "workers": training.workers,
        }
        batches = self._data.batches(shards, **reading)
        if not training.balance:
            return batches
        counts_C, _ = label_counts(batches, len(self._data.vocabulary))
        return self._data.batches(shards, **reading, copies=balanced_copies(counts_C, training.balance))

    def _soft_labels(self, student: TrainingJob) -> Path | None:
        """Where a student's soft labels are; trains its teachers and has them label the training videos."""
        distill = self._recipe.distill
        if distill and distill.soft_labels:
            return Path(distill.soft_labels)
        if distill is None or not student.teachers:
            return None
        self._compare_ids()
        for teacher in student.teachers:
            self.run(teacher)
        generation = student.generation - 1
        folder = self._directory / "distillation" / str(generation) / "soft-labels"
        stage = f"soft-label generation {generation}"
        if distill.teachers == "own":
            folder, stage = folder / student.name, f"{stage} {student.name}"
        inputs = {"teachers": [(job.title, job.digest) for job in student.teachers], "top_k": distill.top_k}
        if folder.exists() and not self._stages.begun(stage, inputs):
            shutil.rmtree(folder)
        make_folder(folder)
        outputs = [soft_labels_file(folder, shard) for shard in self._data.shards["train"]]
        self._stages.do(stage, inputs, outputs, lambda: self._label(stage, student.teachers, folder, distill.top_k))
        return folder

    def _compare_ids(self) -> None:
        """Before the teachers are trained, and once: it reads all training shards."""
        shards = self._data.shards["train"]

        def work() -> dict[str, Any]:
            check_ids_of_shards(shards)
            return {}

        self._stages.do("compare ids", {"train": digests(shards, self._data.surveys)}, [], work)

    def _label(self, stage: str, teachers: list[TrainingJob], folder: Path, top_k: int) -> dict[str, Any]:
        """Each fold is labelled by the teachers that have not seen it."""
        skipped = Skipped()
        for fold in dict.fromkeys(teacher.fold for teacher in teachers):
            own = [teacher for teacher in teachers if teacher.fold == fold]
            files, shards = [self._directory / teacher.folder / BEST for teacher in own], own[0].shards_to_label
            _, more = distributed.on_all_ranks(
                soft_label,
                files,
                shards,
                folder,
                top_k,
                self._data.skip_corrupt,
                rank_0_only={"on_count": counter(self._on_progress, stage, "shards")},
            )
            skipped += more
        log_skipped(stage, skipped)
        return {}

    def recorded(self, job: TrainingJob) -> dict[str, Any] | None:
        """What a training led to; None where it is not done."""
        return self._stages.recorded(f"train {job.title}", job.lineage)

    def refuse_others(self, jobs: Iterable[TrainingJob]) -> None:
        """Raises OutputError if a folder holds a training with another lineage, which would be lost."""
        for job in jobs:
            if self._is_other(job):
                raise OutputError(
                    f"{self._directory / job.folder}: was trained with different settings or shards, or by another "
                    "version of vidfit. Use a new run folder, or --overwrite to retrain"
                )

    def _is_other(self, job: TrainingJob) -> bool:
        """Whether the job's folder has checkpoints that are not known to be of this lineage."""
        has_checkpoints = any((self._directory / job.folder / file).exists() for file in (BEST, *CHECKPOINTS))
        return has_checkpoints and not self._stages.begun(f"train {job.title}", job.lineage)


class _ProgressOfTraining:
    """Passes a training's progress on, and logs each validation."""

    def __init__(self, title: str, on_progress: OnProgress) -> None:
        self._title, self._on_progress = title, on_progress
        self._logged: float | None = None
        self.skipped = NOTHING

    def __call__(self, now: TrainingProgress) -> None:
        gap = "" if now.gap is None else f"GAP {now.gap:.4f}  "
        note = f"loss {now.loss:.3f}  {gap}{now.videos_per_second:,.0f} videos/s"
        self._on_progress(Progress(self._title, now.step, now.steps, "steps", note))
        self.skipped = now.skipped
        if now.gap != self._logged:
            self._logged = now.gap
            log.debug("%s: step %d%s  %s", self._title, now.step, f"/{now.steps}" if now.steps else "", note)
