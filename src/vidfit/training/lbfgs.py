"""Train a linear member exactly: L-BFGS over all videos at once, without a learning rate.

Mean pooling has no weights, so a logistic head on it has one best set of weights. The frames are pooled once. An
iteration is then two matrix products, and some fifty of them are enough. All pooled videos are held in memory, in
groups: the logits of all at once would take more.

Several ranks hold a part of the videos each, and add up loss and gradient.

Shapes: N videos of a group, H pooled values, C classes.

Source: Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization"; `torch.optim.LBFGS`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vidfit import distributed
from vidfit.features.batch import Batch, sent
from vidfit.features.loader import Batches
from vidfit.features.shards import estimate_records
from vidfit.features.skipped import Skipped
from vidfit.models.classifier import VideoClassifier
from vidfit.models.heads import Logistic
from vidfit.progress import OnCount
from vidfit.training.checkpoint import BEST, MemberInfo, save_member
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import SoftTargets
from vidfit.training.epochs import in_step
from vidfit.training.progress_meter import Progress
from vidfit.training.signals import Stopping
from vidfit.training.targets import targets_of
from vidfit.training.validation import add_to_log, validate

# L-BFGS estimates the curvature from so many past steps. It ends once weights and loss change by less than the second,
# or the gradient is below the third.
_HISTORY, _LEAST_CHANGE, _LEAST_GRADIENT = 10, 1e-9, 1e-7
# Of a group, at least. Larger ones are no faster.
_VIDEOS = 8_192


@torch.no_grad()
def pooled(model: VideoClassifier, batch: Batch) -> Tensor:
    """What the head sees of each video, float32 `[N, H]`; model and batch are on the same device."""
    return model.pooled(batch.padded(), sent(batch.num_frames, batch.labels.device))


class LinearProblem:
    """The loss of a logistic head on pooled videos, as a function of its weights. Call it on all ranks together.

    Arguments:
        model: `mean` with a logistic head.
        groups: of this rank, pooled videos `[N, H]` and what to learn for each, `[N, C]`, float32; changed in place.
    """

    def __init__(self, model: VideoClassifier, groups: Sequence[tuple[Tensor, Tensor]]) -> None:
        assert model.head is not None
        assert isinstance(model.head.classifier, Logistic)
        self._head = model.head.classifier
        self._groups = groups
        self.videos = distributed.all_sum(sum(len(inputs_NH) for inputs_NH, _ in groups))
        sums = [torch.stack([part.sum(dim=0) for part in parts]).sum(dim=0) for parts in zip(*groups, strict=True)]
        distributed.all_reduce_(sums)
        # About their mean the videos differ more than about 0, which takes fewer iterations. Biases make up for it.
        self._mean_H = sums[0] / self.videos
        for inputs_NH, _ in groups:
            inputs_NH -= self._mean_H
        self._weights_HC = torch.zeros_like(self._head.weights, requires_grad=True)
        self._biases_C = torch.logit((sums[1] + 0.5) / (self.videos + 1)).requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases, float32 `[H, C]` and `[C]`."""
        return [self._weights_HC, self._biases_C]

    def loss(self) -> Tensor:
        """Mean loss of all videos with the penalty, a scalar in nats. Fills the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        losses = []
        for inputs_NH, targets_NC in self._groups:
            logits_NC = inputs_NH @ self._weights_HC + self._biases_C
            losses.append(binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="sum") / self.videos)
            losses[-1].backward()
        loss = torch.stack(losses).detach().sum()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        distributed.all_reduce_([loss, *gradients])
        gradients[0].add_(self._weights_HC.detach(), alpha=self._head.l2)
        return loss + self._head.l2 / 2 * self._weights_HC.detach().square().sum()

    @torch.no_grad()
    def store(self) -> None:
        """Give the head these weights."""
        self._head.weights.copy_(self._weights_HC)
        self._head.biases.copy_(self._biases_C - self._mean_H @ self._weights_HC)


def linear_problem(
    model: VideoClassifier,
    batches: Iterable[Batch],
    targets: Callable[[Batch], Tensor],
    on_pooled: Callable[[int], None] = lambda _: None,
) -> tuple[LinearProblem, Skipped]:
    """The problem of this rank's batches and what was skipped in them. Moves the model to a GPU if there is one.

    Arguments:
        model: `mean` with a logistic head.
        batches: at least one.
        targets: what to learn for the videos of a batch, float32 `[B, C]`.
        on_pooled: called with the number of videos of this rank so far.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    groups, group, videos, skipped = [], [], 0, Skipped()
    for batch in batches:
        skipped += batch.skipped
        batch = batch.to(device)
        group.append((pooled(model, batch), targets(batch)))
        videos += len(batch)
        on_pooled(videos)
        if sum(len(inputs_BH) for inputs_BH, _ in group) >= _VIDEOS:
            groups.append(_joined(group))
            group = []
    if group:
        groups.append(_joined(group))
    return LinearProblem(model, groups), skipped


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*parts, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def minimise(
    parameters: list[Tensor], loss: Callable[[], Tensor], steps: int, on_step: Callable[[int, Tensor], None]
) -> int:
    """Change the parameters until the loss is least. Returns the number of steps.

    Arguments:
        parameters: where to start.
        loss: of these parameters; fills their gradients.
        steps: at most.
        on_step: called after each loss, with the number of the step and the loss. A step computes one or more.
    """
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_change=_LEAST_CHANGE,
        tolerance_grad=_LEAST_GRADIENT,
    )
    state = optimizer.state[parameters[0]]

    def closure() -> Tensor:
        now = loss()
        on_step(state.get("n_iter", 0), now)
        return now

    optimizer.step(closure)
    return state["n_iter"]


def solve_member(
    info: MemberInfo,
    config: TrainingConfig,
    train_batches: Batches,
    validation_batches: Batches | None,
    directory: Path,
    on_progress: Callable[[Progress], None],
    on_pooled: OnCount,
    soft_targets: SoftTargets | None,
    stopping: Stopping,
) -> dict[str, Any]:
    """As `train_member`, for `solver: lbfgs`. It leaves no `last.safetensors`: a stopped one begins again.

    Arguments:
        stopping: holds back signals while the ranks add up.

    Returns:
        The line of the log.
    """
    model, classes = info.build(), len(info.vocabulary)
    ranks, total = distributed.world_size(), estimate_records(train_batches.shards)
    problem, skipped = linear_problem(
        model,
        in_step(train_batches.of_rank(distributed.rank(), ranks), 0),
        lambda batch: targets_of(batch, train_batches, classes, soft_targets)[0],
        lambda videos: on_pooled(min(videos * ranks, total), total),
    )
    start = time.monotonic()

    def loss() -> Tensor:
        with stopping.held():
            return problem.loss()

    def on_step(step: int, now: Tensor) -> None:
        rate = step * problem.videos / max(time.monotonic() - start, 1e-6)
        on_progress(Progress(step, config.steps, now.item(), rate, None, skipped))

    assert config.steps is not None
    steps = minimise(problem.parameters, loss, config.steps, on_step)
    least = loss().item()
    problem.store()
    result = validate(model, validation_batches) if validation_batches else {}
    info = info.model_copy(update={"step": steps, "gap_validation": result.get("gap")})
    line = {"step": steps, "loss": least, **result, "averaged": False}
    with stopping.held():
        distributed.on_rank_0(lambda: save_member(directory / BEST, info, model.state_dict()))
        distributed.on_rank_0(lambda: add_to_log(directory / "log.jsonl", line))
    return line
