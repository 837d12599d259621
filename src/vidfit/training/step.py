"""One step of training: sample frames, forward, backward, clip, Adam.

Everything random in step `n` follows from the seed and `n` alone.

Shape suffixes: B videos, S sampled frames, C classes.

Source: Skalic & Austin 2018; the optimiser's settings are those of its NetVLAD (see recipes/yt8m-1gb.yaml).
"""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from vidfit.errors import RecipeError
from vidfit.features.batches import Batch
from vidfit.models.classifier import FrameClassifier
from vidfit.models.frames import mix_frames, sample_frames, sample_sequence
from vidfit.models.recurrent import Recurrent
from vidfit.training.adam import Adam
from vidfit.training.config import TrainingConfig
from vidfit.training.losses import cross_entropy
from vidfit.training.thin import ThinGradients


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
        # Measured on a CPU alone; a gradient that something else wants to see (a sum over processes) must be made.
        plain = self.device.type != "cpu" or config.precision != "float32"
        self._thin = None if plain else ThinGradients(model.parameters(), config.batch_size)
        self.forget()

    def forget(self) -> None:
        """Begin with a new optimiser."""
        self._adam = Adam(self.model.named_parameters(), self.model.penalised(), self._config.clip_norm)

    def step(self, batch: Batch, targets_BC: Tensor, number: int, learning_rate: float) -> Tensor:
        """One step of Adam.

        Arguments:
            batch: on the device.
            targets_BC: float32, what each video's probabilities should be; on the device.
            number: of the step; with the seed it fixes all that is random.
            learning_rate: of this step.

        Returns:
            The loss without the head's penalty, a scalar in nats.
        """
        # A generator of its own would not reach dropout; seeding the global one covers every use.
        torch.manual_seed((self._seed * 1_000_003 + number) % 2**63)
        frames, num_frames, targets_BC = self._inputs(batch, targets_BC)
        size = -(-len(batch) // self._config.accumulate)
        losses = []
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            with self._forward():
                probabilities_BC = self.model(
                    {name: values[part] for name, values in frames.items()},
                    None if num_frames is None else num_frames[part],
                )
            share = len(probabilities_BC) / len(batch)
            losses.append(share * cross_entropy(probabilities_BC.float(), targets_BC[part]))
            losses[-1].backward()
        self._adam.step(learning_rate, self._thin.take() if self._thin else {})
        return torch.stack(losses).detach().sum()

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

    def _inputs(self, batch: Batch, targets_BC: Tensor) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
        """What the model sees, as its `forward` takes it, and what it should say."""
        config = self._config
        if config.sampling == "none":
            return batch.padded(), batch.num_frames, targets_BC
        if config.sampling == "sequence":
            uniforms_B = torch.rand(len(batch)).to(self.device)
            frames = sample_sequence(batch.frames, batch.num_frames, uniforms_B, config.sample_frames)
        else:
            uniforms_BS = torch.rand(len(batch), config.sample_frames).to(self.device)
            frames = sample_frames(batch.frames, batch.num_frames, uniforms_BS)
        if config.mixup:
            share_B = torch.distributions.Beta(config.mixup, config.mixup).sample([len(batch)]).to(self.device)
            partner_B = torch.randperm(len(batch)).to(self.device)
            frames = mix_frames(frames, share_B, partner_B)
            targets_BC = share_B[:, None] * targets_BC + (1 - share_B[:, None]) * targets_BC[partner_B]
        return frames, None, targets_BC
