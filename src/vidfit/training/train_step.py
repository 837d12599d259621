"""One step of training: sample frames, forward, backward, clip, Adam.

Everything random in step `n` follows from the seed and `n` alone.

Where several ranks train together, each has a part of the batch. Losses are shares of the mean over the whole batch and
gradients are added before they are clipped, so that weights, moments and statistics stay the same on all ranks, to the
bit. Frames are drawn for the whole batch, as one process would; what dropout leaves out and which videos are mixed
follows from the rank too, and videos are mixed with those of their own rank.

Shape suffixes: B videos, S sampled frames, C classes.

Source: Skalic & Austin 2018; the optimiser's settings are those of its NetVLAD (see recipes/yt8m-1gb.yaml).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from vidfit import distributed
from vidfit.errors import RecipeError
from vidfit.features.batch import Batch, sent
from vidfit.kernels.factored_gradients import ThinGradients
from vidfit.models.classifier import FrameClassifier
from vidfit.models.frames import mix_frames, sample_counted, sample_frames, sample_sequence
from vidfit.models.recurrent import Recurrent
from vidfit.training.config import TrainingConfig
from vidfit.training.losses import cross_entropy
from vidfit.training.optimizer import Adam


class _Inputs(NamedTuple):
    """What a model sees of a batch, as its `forward` takes it."""

    frames: Mapping[str, Tensor]
    num_frames: Tensor | None = None
    counts: Tensor | None = None

    def part(self, rows: slice) -> "_Inputs":
        num_frames, counts = (None if values is None else values[rows] for values in self[1:])
        return _Inputs({name: values[rows] for name, values in self.frames.items()}, num_frames, counts)


class Learner:
    """A model in training and the moments of its optimiser, on the device.

    Arguments:
        model: in training mode; it is moved to the device, and its batch norms take the recipe's momentum.
        config: how it is trained.
        seed: of sampling, mixing and dropout.

    Raises:
        RecipeError: the device cannot train the family in the recipe's precision.
    """

    def __init__(self, model: FrameClassifier, config: TrainingConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = config.batch_norm_momentum
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        if config.precision == "bfloat16" and self.device.type == "cpu" and isinstance(model.family, Recurrent):
            raise RecipeError("training.precision: recurrent families have no bfloat16 on a CPU; use float32")
        # Measured on a CPU alone; a gradient that is to be added over ranks must be made.
        plain = self.device.type != "cpu" or config.precision != "float32" or distributed.count() > 1
        self._thin = None if plain else ThinGradients(model.parameters(), config.batch_size)
        self.forget()

    def forget(self) -> None:
        """Begin with a new optimiser."""
        self._adam = Adam(self.model.named_parameters(), self.model.penalised(), self._config.clip_norm)

    def step(self, batch: Batch, targets_BC: Tensor, number: int, learning_rate: float) -> Tensor:
        """One step of Adam.

        Arguments:
            batch: its frames and labels on the device; this rank's part of it, which may be empty.
            targets_BC: float32, what each video's probabilities should be; on the device.
            number: of the step; with the seed it fixes all that is random.
            learning_rate: of this step.

        Returns:
            The loss of the whole batch without the head's penalty, a scalar in nats.
        """
        # A generator of its own would not reach dropout; seeding the global one covers every use.
        torch.manual_seed((self._seed * 1_000_003 + number) % 2**63)
        sizes = [size for (size,) in distributed.every(len(batch))]
        inputs, targets_BC = self._inputs(batch, targets_BC, sizes)
        size = -(-max(sizes) // self._config.accumulate)
        losses = []
        for start in range(0, max(sizes), size):
            part = slice(start, start + size)
            with self._forward():
                probabilities_BC = self.model(*inputs.part(part))
            losses.append(cross_entropy(probabilities_BC.float(), targets_BC[part], sum(sizes)))
            losses[-1].backward()
        loss = torch.stack(losses).detach().sum()
        distributed.add_(
            [loss, *(parameter.grad for parameter in self.model.parameters() if parameter.grad is not None)]
        )
        self._adam.step(learning_rate, self._thin.take() if self._thin else {})
        return loss

    def moments(self) -> dict[str, Tensor]:
        """Adam's moments by `exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`; none before the first step."""
        return self._adam.state()

    def remember(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Go on from the moments that `moments` gave after so many steps."""
        self._adam.load_state(moments, steps)

    def _forward(self):
        if self._config.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return self._thin or nullcontext()

    def _inputs(self, batch: Batch, targets_BC: Tensor, sizes: list[int]) -> tuple[_Inputs, Tensor]:
        """What the model sees and what it should say; `sizes` are the ranks' parts."""
        config, videos, own = self._config, sum(sizes), _rows(sizes)
        if config.sampling == "none":
            self._part_ways()
            return _Inputs(batch.padded(), sent(batch.num_frames, self.device)), targets_BC
        if config.sampling == "sequence":
            uniforms_B = torch.rand(videos)[own]
            frames = sample_sequence(batch.frames, batch.num_frames, uniforms_B, config.sample_frames)
        else:
            uniforms_BS = torch.rand(videos, config.sample_frames)[own]
            if not (config.mixup or isinstance(self.model.family, Recurrent)):
                self._part_ways()
                frames, counts_BU = sample_counted(batch.frames, batch.num_frames, uniforms_BS)
                return _Inputs(frames, counts=counts_BU), targets_BC
            frames = sample_frames(batch.frames, batch.num_frames, uniforms_BS)
        self._part_ways()
        if config.mixup:
            share_B = sent(torch.distributions.Beta(config.mixup, config.mixup).sample([len(batch)]), self.device)
            partner_B = sent(torch.randperm(len(batch)), self.device)
            frames = mix_frames(frames, share_B, partner_B)
            targets_BC = share_B[:, None] * targets_BC + (1 - share_B[:, None]) * targets_BC[partner_B]
        return _Inputs(frames), targets_BC

    def _part_ways(self) -> None:
        """From here on ranks draw numbers of their own: masks that are the same on all would be fewer masks."""
        if distributed.count() > 1:
            torch.manual_seed((torch.initial_seed() * distributed.count() + distributed.number()) % 2**63)


def _rows(sizes: list[int]) -> list[int]:
    """Which rows of the whole batch are this rank's, whose parts of it have these sizes.

    Ranks take turns, as they do in a cache's order, so that the whole is that of one process row by row.
    """
    turns = sorted((row, rank) for rank, size in enumerate(sizes) for row in range(size))
    return [place for place, (_, rank) in enumerate(turns) if rank == distributed.number()]
