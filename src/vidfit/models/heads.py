"""From a video's representation to probabilities: logistic or mixture of experts, then label gating.

A head also sets the L2 penalty on its big weights, the original's only regulariser besides dropout.

Shapes: B videos, H the head's input, C classes, E experts.
"""

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from vidfit.kernels.dropout import Dropout
from vidfit.models.batch_norm import BatchNorm


class LogisticConfig(BaseModel):
    """One logistic regression per class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["logistic"] = "logistic"
    l2: float = Field(default=1e-8, ge=0, description="weight of the penalty `0.5 * sum W^2`")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="fraction of the head's input to drop in training")
    label_gating: bool = Field(default=False, description="multiply the probabilities p by `sigmoid(BN(p W))`")


class MixtureOfExpertsConfig(BaseModel):
    """A mixture of logistic regressions per class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["moe"] = "moe"
    experts: PositiveInt = Field(default=2, description="E per class, besides the one that always says no")
    l2: float = Field(default=1e-6, ge=0, description="weight of the penalty `0.5 * sum W^2` on gates and experts")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="fraction of the head's input to drop in training")
    label_gating: bool = Field(default=False, description="multiply the probabilities p by `sigmoid(BN(p W))`")


HeadConfig = Annotated[LogisticConfig | MixtureOfExpertsConfig, Field(discriminator="type")]


class Logistic(nn.Module):
    """`sigmoid(x W + b)`."""

    def __init__(self, config: LogisticConfig, input_size: int, classes: int) -> None:
        super().__init__()
        self.l2 = config.l2
        # Glorot uniform weights, zero biases.
        self.weights = nn.Parameter(nn.init.xavier_uniform_(torch.empty(input_size, classes)))
        self.biases = nn.Parameter(torch.zeros(classes))

    def forward(self, x_BH: Tensor) -> Tensor:
        """float32 `[B, H]` -> probabilities `[B, C]`."""
        return torch.sigmoid(x_BH @ self.weights + self.biases)

    def set_prior(self, logits_C: Tensor) -> None:
        self.biases.data.copy_(logits_C)

    def penalised(self) -> dict[Tensor, float]:
        return {self.weights: self.l2}


class MixtureOfExperts(nn.Module):
    """`sum_e softmax(x G)_e sigmoid(x W + b)_e` for each class, over E experts and one that always predicts 0.

    Columns are class-major: `class * (E + 1) + expert` in the gates, `class * E + expert` in the experts.

    Source: Jordan & Jacobs 1994; Abu-El-Haija et al. 2016, section 5.
    """

    def __init__(self, config: MixtureOfExpertsConfig, input_size: int, classes: int) -> None:
        super().__init__()
        self.l2 = config.l2
        self.experts = config.experts
        # Glorot uniform weights over all columns of a matrix, zero biases.
        self.gate_weights = nn.Parameter(
            nn.init.xavier_uniform_(torch.empty(input_size, classes * (config.experts + 1)))
        )
        self.expert_weights = nn.Parameter(nn.init.xavier_uniform_(torch.empty(input_size, classes * config.experts)))
        self.expert_biases = nn.Parameter(torch.zeros(classes * config.experts))

    def forward(self, x_BH: Tensor) -> Tensor:
        """float32 `[B, H]` -> probabilities `[B, C]`."""
        # In bfloat16 the softmax may add up to more than 1, which makes the loss NaN.
        gates_BCE = (x_BH @ self.gate_weights).float().unflatten(1, (-1, self.experts + 1)).softmax(dim=-1)
        experts_BCE = torch.sigmoid(x_BH @ self.expert_weights + self.expert_biases).unflatten(1, (-1, self.experts))
        return (gates_BCE[..., :-1] * experts_BCE).sum(dim=-1)

    def set_prior(self, logits_C: Tensor) -> None:
        self.expert_biases.data.copy_(logits_C.repeat_interleave(self.experts))

    def penalised(self) -> dict[Tensor, float]:
        return {self.gate_weights: self.l2, self.expert_weights: self.l2}


HEADS = {"logistic": Logistic, "moe": MixtureOfExperts}


class ContextGating(nn.Module):
    """`a * sigmoid(BN(a W))`: each value is damped by a gate computed from all. On probabilities it is label gating.

    Source: Miech et al. 2017, eq. 6.

    Arguments:
        size: length of the last axis.
        batch_norm: False means a bias instead of the batch norm, as in the original's recurrent models.
    """

    def __init__(self, size: int, *, batch_norm: bool = True) -> None:
        super().__init__()
        # Normal, std 1/sqrt(size).
        self.weights = nn.Parameter(nn.init.normal_(torch.empty(size, size), std=size**-0.5))
        self.norm = BatchNorm(size) if batch_norm else None
        self.biases = None if batch_norm else nn.Parameter(nn.init.normal_(torch.empty(size), std=size**-0.5))

    def forward(self, values: Tensor) -> Tensor:
        """float32 `[B, size]` -> `[B, size]`."""
        gates = values @ self.weights
        if self.norm is not None:
            gates = self.norm(gates)
        if self.biases is not None:
            gates = gates + self.biases
        return values * torch.sigmoid(gates)


class Head(nn.Module):
    """Dropout, classifier, label gating.

    Arguments:
        config: kind and options.
        input_size: H, the family's `output_size`.
        classes: C.
    """

    def __init__(self, config: LogisticConfig | MixtureOfExpertsConfig, input_size: int, classes: int) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.classifier = HEADS[config.type](config, input_size, classes)
        self.label_gating = ContextGating(classes) if config.label_gating else None

    def forward(self, x_BH: Tensor) -> Tensor:
        """float32 `[B, H]` -> probabilities, float32 `[B, C]`."""
        probabilities_BC = self.classifier(self.dropout(x_BH))
        return probabilities_BC if self.label_gating is None else self.label_gating(probabilities_BC)

    def set_prior(self, frequencies_C: Tensor) -> None:
        """Start an untrained head at the labels' frequencies: biases `logit(frequency)`.

        From zero biases, Adam's first thousand steps would only learn how rare each label is.

        Arguments:
            frequencies_C: float32, fraction of the videos that have each label, above 0 and below 1.

        Source: Lin et al. 2017, section 4.1 (initialisation by a prior, there one for all classes).
        """
        self.classifier.set_prior(torch.logit(frequencies_C))

    def penalised(self) -> dict[Tensor, float]:
        """Weights with an L2 penalty `l2 * 0.5 * sum W^2`, and the l2 of each. Biases and the label gate have none."""
        return self.classifier.penalised()
