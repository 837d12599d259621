"""One step of training: sample frames, forward, backward, clip, Adam.

Everything random in step `n` follows from the seed and `n` alone.

Shape suffixes: B videos, S sampled frames, C classes.

Source: Skalic & Austin 2018; the optimiser's settings are those of its NetVLAD (see recipes/yt8m-1gb.yaml).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vidfit.features.batches import Batch
from vidfit.models.classifier import FrameClassifier
from vidfit.models.frames import mix_frames, sample_frames, sample_sequence
from vidfit.training.config import TrainingConfig
from vidfit.training.losses import cross_entropy

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Learner:
    """A model in training and the moments of its optimiser, on the device.

    Arguments:
        model: in training mode; it is moved to the device, and its batch norms take the recipe's momentum.
        config: how it is trained.
        seed: of sampling, mixing and dropout.
    """

    def __init__(self, model: FrameClassifier, config: TrainingConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = config.batch_norm_momentum
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.forget()

    def forget(self) -> None:
        """Begin with a new optimiser."""
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=self._config.learning_rate, fused=True)

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
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        # A generator of its own would not reach dropout; seeding the global one covers every use.
        torch.manual_seed((self._seed * 1_000_003 + number) % 2**63)
        loss = cross_entropy(*self._probabilities_and_targets(batch, targets_BC))
        self._optimizer.zero_grad(set_to_none=True)
        (loss + self.model.penalty()).backward()
        clip_each_(list(self.model.parameters()), self._config.clip_norm)
        self._optimizer.step()
        return loss.detach()

    def moments(self) -> dict[str, Tensor]:
        """Adam's moments by `exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`; none before the first step."""
        return {
            f"{moment}.{name}": self._optimizer.state[parameter][moment]
            for name, parameter in self.model.named_parameters()
            if parameter in self._optimizer.state
            for moment in _MOMENTS
        }

    def remember(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Go on from the moments that `moments` gave after so many steps."""
        for name, parameter in self.model.named_parameters():
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=self.device),
                **{moment: moments[f"{moment}.{name}"].to(self.device) for moment in _MOMENTS},
            }

    def _probabilities_and_targets(self, batch: Batch, targets_BC: Tensor) -> tuple[Tensor, Tensor]:
        config = self._config
        if config.sampling == "none":
            return self.model(batch.padded(), batch.num_frames), targets_BC
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
        return self.model(frames, None), targets_BC


def clip_each_(parameters: list[torch.nn.Parameter], norm: float) -> None:
    """Scale every variable's gradient, by itself, down to at most `norm` (in place)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(norm / torch.linalg.vector_norm(parameter.grad).clamp_min(norm))
