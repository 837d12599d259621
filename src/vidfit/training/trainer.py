"""Train one member: read, step, validate now and then, keep the best and the last checkpoint.

There are two phases: training proper and, if the recipe asks for it, averaging from the best weights (`averaging.py`).

All randomness of step `n` follows from the seed and `n` alone (`train_step.py`). So you can kill a training anywhere
and resume it from its newest checkpoint (`checkpoint_manager.py`). It ends with the same weights, bit for bit. The
price: each step seeds the generator (microseconds), and resuming reads past the batches already seen, unless they come
from a cache.

Several ranks train one member together. All have the same weights. Each reads its part of the videos. When they are
used up, it still takes part in every step, with an empty batch. Rank 0 writes.
"""

from collections.abc import Callable
from pathlib import Path

from vidfit import distributed
from vidfit.features.loader import Batches
from vidfit.models.classifier import VideoClassifier
from vidfit.progress import OnCount, uncounted
from vidfit.training.checkpoint import BEST, MemberInfo, read_info, save_member
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import SoftTargets
from vidfit.training.divergence import MOST_HALVINGS, DivergedError
from vidfit.training.epochs import remaining
from vidfit.training.lbfgs import solve_member
from vidfit.training.progress_meter import Progress, ProgressMeter
from vidfit.training.resumable import ResumableModel
from vidfit.training.schedule import last_step, learning_rate
from vidfit.training.signals import STOPS, Stopping
from vidfit.training.targets import targets_of
from vidfit.training.tracking import tracking
from vidfit.training.validation import add_to_log, validate


def train_member(
    info: MemberInfo,
    config: TrainingConfig,
    train_batches: Batches,
    validation_batches: Batches | None,
    directory: Path,
    seed: int,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_pooled: OnCount = uncounted,
    soft_targets: SoftTargets | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> MemberInfo:
    """Train a member and leave `best.safetensors`, `last.safetensors` and `log.jsonl` in `directory`.

    It resumes from the newest checkpoint if there is one. Ctrl-C, SIGTERM or SIGHUP stops it after the current step,
    with a checkpoint of that step. With `solver: lbfgs` there is no `last.safetensors`, and a stopped one begins again.

    Arguments:
        info: what to train; its step and GAP are the start's.
        config: how.
        train_batches: the videos to learn from. Ranks share them, and each batch.
        validation_batches: the videos that choose the best checkpoint and stop the training early. None: the last
            checkpoint is the best.
        directory: the member's folder; created if missing.
        seed: of initial weights, sampling and dropout.
        on_progress: called a few times per second.
        on_pooled: with `solver: lbfgs`, called with the videos pooled so far and about how many there are.
        soft_targets: teachers' probabilities to learn from besides the labels.
        log: called with one line about a damaged checkpoint, a halved learning rate or a stop.

    Returns:
        The description of the best checkpoint.

    Raises:
        DataError: a training or validation shard is damaged, or training videos lack soft labels.
        ModelFileError: the folder's checkpoints are damaged or belong to another model.
        DivergedError: the loss is not finite, and `config.on_nan` does not help. The checkpoints are from before.
        OutputError: a checkpoint cannot be written. Those before are unchanged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if config.solver == "lbfgs":
        with Stopping() as stopping, tracking(config.log, directory, 0) as track:
            line = solve_member(
                info,
                config,
                train_batches,
                validation_batches,
                directory,
                on_progress,
                on_pooled,
                soft_targets,
                stopping,
            )
            track(line)
        return read_info(directory / BEST)
    trainer = Trainer(info, config, train_batches, validation_batches, directory, seed, soft_targets, log)
    with Stopping() as stopping:
        trainer.run(stopping, ProgressMeter(on_progress))
    return read_info(directory / BEST)


class Trainer:
    """The two phases of a member's training. Arguments are those of `train_member`."""

    def __init__(
        self,
        info: MemberInfo,
        config: TrainingConfig,
        train_batches: Batches,
        validation_batches: Batches | None,
        directory: Path,
        seed: int,
        soft_targets: SoftTargets | None,
        log: Callable[[str], None],
    ) -> None:
        self._info, self._config, self._directory = info, config, directory
        self._train_batches, self._validation_batches = train_batches, validation_batches
        self._own_batches = train_batches.of_rank(distributed.rank(), distributed.world_size())
        self._soft_targets, self._log = soft_targets, log
        self._resumable = ResumableModel(info, config, self._own_batches, directory, seed, log)
        self._gap: float | None = None

    def run(self, stopping: Stopping, meter: ProgressMeter) -> None:
        """Train to the end. A signal stops it with a checkpoint of all steps made.

        Arguments:
            stopping: holds back signals while a step or a checkpoint is made.
            meter: told of each step.

        Raises:
            DivergedError: the recipe does not say to try again after a divergence, or ten tries were not enough.
        """
        with tracking(self._config.log, self._directory, self._resumable.state.step) as self._track:
            try:
                self._phases(stopping, meter)
            except STOPS:
                with stopping.held():
                    self._resumable.save_between()
                    self._log(f"stopped after step {self._resumable.state.step}, which is kept")
                raise

    def _phases(self, stopping: Stopping, meter: ProgressMeter) -> None:
        """Both phases. After a divergence, go back and try again if the recipe says so."""
        config, averaging = self._config, self._config.averaging
        while True:
            try:
                if self._resumable.state.due:
                    self._validate(stopping)
                if not self._resumable.state.averaging:
                    self._phase(config.steps, config.epochs, stopping, meter)
                if averaging:
                    if not self._resumable.state.averaging:
                        self._resumable.begin_averaging(averaging)
                    self._phase(self._resumable.state.begun + averaging.steps, None, stopping, meter)
                self._resumable.finish()
                return
            except DivergedError as error:
                self._go_back(error)

    def _phase(self, steps: int | None, epochs: int | None, stopping: Stopping, meter: ProgressMeter) -> None:
        """Train from where the training stands to the end of a phase: read, step, validate now and then.

        Raises:
            DivergedError: a loss is not finite, or a checkpoint was due and a weight is not.
        """
        resumable, state = self._resumable, self._resumable.state
        for batch, position in remaining(self._own_batches, state, steps, epochs):
            with stopping.held():
                batch = batch.to(resumable.train_step.device)
                classes = resumable.train_step.model.classes
                targets = targets_of(batch, self._train_batches, classes, self._soft_targets)
                targets_BC, weights_BC, parts_N3 = targets
                rate = learning_rate(self._config, state, state.step)
                loss = resumable.train_step(batch, targets_BC, state.step, rate, weights_BC, parts_N3)
                state.advance(position, self._config.validate_every)
                resumable.after_step(loss)
            validated = state.due
            if validated:
                self._validate(stopping)
            videos = len(batch) * distributed.world_size()
            meter.update(state, last_step(self._config, state), loss, videos, self._gap, now=validated)

    def _validate(self, stopping: Stopping) -> None:
        """Measure the model, or in the second phase its average; keep the best; write a checkpoint.

        Raises:
            DivergedError: a loss or a weight is not finite.
        """
        resumable, state, averaging = self._resumable, self._resumable.state, self._resumable.averaging
        resumable.finite.check(resumable.train_step.model)
        model, keep = resumable.train_step.model, False
        if resumable.average and averaging:
            model, keep = resumable.average.module, averaging.keep == "always"
        assert isinstance(model, VideoClassifier)
        result = validate(model, self._validation_batches) if self._validation_batches else {}
        self._gap = result.get("gap")
        with stopping.held():
            info = self._info.model_copy(update={"step": state.step, "gap_validation": self._gap})
            state.stale += 1
            if self._gap is None or self._gap > state.best_gap or keep:
                state.best_gap, state.stale = self._gap or 0.0, 0
                distributed.on_rank_0(lambda: save_member(self._directory / BEST, info, model.state_dict()))
            patience = None if averaging else self._config.patience
            state.done = state.ends or (patience is not None and state.stale >= patience)
            state.due, state.validated = False, state.step
            rate = learning_rate(self._config, state, state.step - 1)
            line = {"step": state.step, "loss": state.loss, "lr": rate, **result}
            distributed.on_rank_0(
                lambda: add_to_log(self._directory / "log.jsonl", line | {"averaged": state.averaging})
            )
            self._track(line)
            resumable.save_validated(info)

    def _go_back(self, error: DivergedError) -> None:
        """Return to the last validation, or to the start, with half the learning rate.

        Raises:
            DivergedError: the one given, if the recipe does not want this or ten tries were not enough.
        """
        if self._config.on_nan == "stop":
            raise DivergedError(f"{error}; training diverged, try a lower learning_rate or on_nan: halve") from error
        halvings = self._resumable.state.halvings + 1
        if halvings > MOST_HALVINGS:
            raise DivergedError(f"{error}, even with a learning rate halved {MOST_HALVINGS} times") from error
        self._resumable.go_back()
        state = self._resumable.state
        state.halvings = halvings
        rate = learning_rate(self._config, state, state.step)
        self._log(f"{error}; back to step {state.step}, with half the learning rate: {rate:.3g}")
