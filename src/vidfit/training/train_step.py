"""One step of training: sample frames, forward, backward, clip, Adam.

All randomness of step `n` follows from the seed and `n` alone.

When several ranks train together, each has a part of the batch. Losses are parts of the whole batch's mean, and
gradients are added before they are clipped. So weights, moments and statistics stay equal on all ranks, bit for bit.
Frames are drawn for the whole batch, as one process would draw them. Dropout and mixup also depend on the rank, and
mixup pairs videos of the same rank.

Shapes: B videos, S sampled frames, C classes.

Source: Skalic & Austin 2018; the optimiser's settings are those of its NetVLAD (see recipes/yt8m-1gb.yaml).
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from vidfit import distributed
from vidfit.features.batch import Batch, sent
from vidfit.kernels.factored_gradients import FactoredGradients
from vidfit.models.classifier import VideoClassifier
from vidfit.models.sampling import mix_frames, sample_distinct, sample_frames, sample_sequence
from vidfit.training.config import TrainingConfig
from vidfit.training.losses import cross_entropy
from vidfit.training.optimizer import Adam


class _Inputs(NamedTuple):
    """A batch as the model's `forward` takes it."""

    frames: Mapping[str, Tensor]
    num_frames: Tensor | None = None
    frame_weights: Tensor | None = None
    parts_N3: Tensor | None = None

    def part(self, rows: slice) -> "_Inputs":
        """Some rows. Where they are parts of videos, they are all of them, so nothing is cut."""
        if self.parts_N3 is not None:
            return self
        num_frames, frame_weights = (None if values is None else values[rows] for values in self[1:3])
        return _Inputs({name: values[rows] for name, values in self.frames.items()}, num_frames, frame_weights)


class TrainStep:
    """A model and its optimiser on the device; call it once per batch.

    Arguments:
        model: in training mode. It is moved to the device, and its batch norms take the recipe's momentum.
        config: how to train it.
        seed: of sampling, mixing and dropout.
    """

    def __init__(self, model: VideoClassifier, config: TrainingConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = config.batch_norm_momentum
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        # On a CPU large gradients are never written out. A step of competition-size NetVLAD then takes 1.2 s and 4.1 GB
        # instead of 3.1 s and 5.6 GB (benchmarks/LOG.md). Ranks need whole gradients to add them up, and on a GPU it
        # gains nothing. Set this to None to train with plain gradients everywhere.
        factored = self.device.type == "cpu" and config.precision == "float32" and distributed.world_size() == 1
        self._factored = FactoredGradients(model.parameters(), config.batch_size) if factored else None
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Start with fresh moments."""
        config = self._config
        self._adam = Adam(self.model.named_parameters(), self.model.penalised(), config.per_tensor_clip_norm)

    def __call__(
        self,
        batch: Batch,
        targets_BC: Tensor,
        number: int,
        learning_rate: float,
        weights_BC: Tensor | None = None,
        parts_N3: Tensor | None = None,
    ) -> Tensor:
        """One step of Adam.

        Arguments:
            batch: frames and labels on the device; this rank's part of the batch, which may be empty.
            targets_BC: float32, the probabilities to learn for each video; on the device.
            number: of the step. With the seed it fixes all randomness.
            learning_rate: of this step.
            weights_BC: float32, how much each of them counts; on the device. None means 1. Not with mixup.
            parts_N3: int64, which parts of the videos the targets are for, as `VideoClassifier` takes them; on the
                device. Then N is B above. Only where all frames are seen, without `accumulate`.

        Returns:
            The loss of the whole batch without the head's penalty, a scalar in nats.
        """
        # Dropout has no generator of its own, so seed the global one.
        _seed((self._seed * 1_000_003 + number) % 2**63)
        sizes = [size for (size,) in distributed.all_gather(len(batch))]
        inputs, targets_BC = self._inputs(batch, targets_BC, sizes)
        if parts_N3 is not None:
            inputs = inputs._replace(parts_N3=parts_N3)
            sizes = [size for (size,) in distributed.all_gather(len(parts_N3))]
        size = -(-max(sizes) // self._config.accumulate)
        losses = []
        for start in range(0, max(sizes), size):
            part = slice(start, start + size)
            with self._forward():
                probabilities_BC = self.model(*inputs.part(part))
            weights = None if weights_BC is None else weights_BC[part]
            losses.append(cross_entropy(probabilities_BC.float(), targets_BC[part], sum(sizes), weights))
            losses[-1].backward()
        loss = torch.stack(losses).detach().sum()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        distributed.all_reduce_([loss, *gradients])
        self._adam.step(learning_rate, self._factored.take() if self._factored else {})
        return loss

    def moments(self) -> dict[str, Tensor]:
        """Adam's moments as `exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`; empty before the first step."""
        return self._adam.state()

    def load_moments(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Resume from what `moments` gave after so many steps."""
        self._adam.load_state(moments, steps)

    def _forward(self) -> AbstractContextManager[object]:
        if self._config.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return self._factored or nullcontext()

    def _inputs(self, batch: Batch, targets_BC: Tensor, sizes: list[int]) -> tuple[_Inputs, Tensor]:
        """What the model sees and should answer; `sizes` are the ranks' parts of the batch."""
        config, videos, own = self._config, sum(sizes), _rows(sizes)
        if config.sampling == "none":
            self._seed_by_rank()
            return _Inputs(batch.padded(), sent(batch.num_frames, self.device)), targets_BC
        if config.sampling == "sequence":
            uniforms_B = torch.rand(videos)[own]
            frames = sample_sequence(batch.frames, batch.num_frames, uniforms_B, config.sample_frames)
        else:
            uniforms_BS = torch.rand(videos, config.sample_frames)[own]
            if not (config.mixup or self.model.recurrent):
                self._seed_by_rank()
                frames, weights_BU = sample_distinct(batch.frames, batch.num_frames, uniforms_BS)
                return _Inputs(frames, frame_weights=weights_BU), targets_BC
            if self.model.recurrent:
                # It learns the order of frames, so they come in the video's.
                uniforms_BS = uniforms_BS.sort(dim=1).values
            frames = sample_frames(batch.frames, batch.num_frames, uniforms_BS)
        self._seed_by_rank()
        if config.mixup:
            weight_B = sent(torch.distributions.Beta(config.mixup, config.mixup).sample([len(batch)]), self.device)
            partner_B = sent(torch.randperm(len(batch)), self.device)
            frames = mix_frames(frames, weight_B, partner_B)
            targets_BC = weight_B[:, None] * targets_BC + (1 - weight_B[:, None]) * targets_BC[partner_B]
        return _Inputs(frames), targets_BC

    def _seed_by_rank(self) -> None:
        """Let ranks draw different numbers from here on: equal dropout masks on all ranks would be fewer masks."""
        if distributed.world_size() > 1:
            _seed((torch.initial_seed() * distributed.world_size() + distributed.rank()) % 2**63)


def _seed(seed: int) -> None:
    """`torch.manual_seed`, which takes 0.4 ms a step where there is no GPU: it notes the stack for each kind of GPU."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def _rows(sizes: list[int]) -> list[int]:
    """The rows of the whole batch that belong to this rank; `sizes` are the ranks' parts.

    Ranks take turns, as in a cache's order. So the whole batch equals that of one process, row by row.
    """
    turns = sorted((row, rank) for rank, size in enumerate(sizes) for row in range(size))
    return [place for place, (_, rank) in enumerate(turns) if rank == distributed.rank()]
