"""Frame classifier: decide about every frame and label, then pool the decisions over the frames.

With `z_tc = (x_t W + b)_c`, `p_tc = sigmoid(z_tc)` and n frames, the probability of label c is

- `max`: `max_t p_tc`;
- `log-sum-exp`: `sigmoid(T log(1/n sum_t exp(z_tc / T)))`; the temperature T leads from `max` (0) to the mean logit;
- `attention`: `sum_t a_tc p_tc`, with `a_tc = softmax over t of (x_t V)_c`;
- `mean`: `1/n sum_t p_tc`;
- `noisy-or`: `1 - prod_t (1 - p_tc)`. It grows with the number of frames, so it suits short videos.

It suits labels that hold in a part of a video. It needs no head, and `p_tc` says when a label holds.

Shapes: B videos, T frames, D features, C classes.

Source: Wang, Li & Metze 2018 (arXiv 1810.09050), table 1 (pooling functions); Kong et al. 2018 (arXiv 1711.00927),
eq. 8 (attention).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.kernels.dropout import Dropout
from vidfit.kernels.pooling import exponentials, max_frames, mean_frames, sum_frames


class FrameClassifierConfig(BaseModel):
    """Options of the frame classifier. It decides itself, so its member has no `head`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["frame-classifier"] = "frame-classifier"
    pooling: Literal["max", "log-sum-exp", "attention", "mean", "noisy-or"] = Field(
        default="max",
        description="how decisions about frames become one about the video; `noisy-or` needs `sampling: none`",
    )
    temperature: float = Field(
        default=0.5, gt=0, description="of `log-sum-exp`: near 0 it is `max`, large values give the mean logit"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="fraction of a decision's inputs to drop in training")
    l2: float = Field(default=1e-8, ge=0, description="weight of the penalty `0.5 * sum W^2` on the decision's weights")


class FrameClassifier(nn.Module):
    """Frames to probabilities of a video and of each frame.

    Arguments:
        config: pooling and options.
        spec: modalities of a frame.
        classes: C.
    """

    def __init__(self, config: FrameClassifierConfig, spec: FeatureSpec, classes: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = Dropout(config.dropout)
        # Glorot uniform weights; attention starts as the mean.
        self.weights = nn.Parameter(nn.init.xavier_uniform_(torch.empty(spec.total_size, classes)))
        self.biases = nn.Parameter(torch.zeros(classes))
        attends = config.pooling == "attention"
        self.attention_weights = nn.Parameter(torch.zeros(spec.total_size, classes)) if attends else None

    def forward(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Probabilities of the videos, float32 `[B, C]`, and of their frames, float32 `[B, T, C]`.

        Arguments:
            frames_BTD: float32.
            weights_BT: float32, how many times each frame counts; None means once each. Results for frames with
                weight 0 are undefined; ignore them.
        """
        frames_BTD = self.dropout(frames_BTD)
        # Pooling needs more than half precision: exponentials, and sums over many frames.
        logits_BTC = (frames_BTD @ self.weights).float() + self.biases
        scores_BTC = None if self.attention_weights is None else (frames_BTD @ self.attention_weights).float()
        probabilities_BTC = torch.sigmoid(logits_BTC)
        return self._pooled(logits_BTC, probabilities_BTC, scores_BTC, weights_BT), probabilities_BTC

    def _pooled(
        self, logits_BTC: Tensor, probabilities_BTC: Tensor, scores_BTC: Tensor | None, weights_BT: Tensor | None
    ) -> Tensor:
        if scores_BTC is not None:
            exponentials_BTC, _ = exponentials(scores_BTC, weights_BT)
            sums_BC = sum_frames(exponentials_BTC * probabilities_BTC, weights_BT)
            return sums_BC / sum_frames(exponentials_BTC, weights_BT)
        match self.config.pooling:
            case "max":
                return torch.sigmoid(max_frames(logits_BTC, weights_BT))
            case "log-sum-exp":
                temperature = self.config.temperature
                exponentials_BTC, largest_BC = exponentials(logits_BTC / temperature, weights_BT)
                means_BC = mean_frames(exponentials_BTC, weights_BT)
                return torch.sigmoid(temperature * (largest_BC + means_BC.log()))
            case "mean":
                return mean_frames(probabilities_BTC, weights_BT)
            case _:
                # log(1 - sigmoid(z)) = -softplus(z)
                return 1 - (-sum_frames(F.softplus(logits_BTC), weights_BT)).exp()

    def set_prior(self, frequencies_C: Tensor) -> None:
        """Start an untrained classifier at the labels' frequencies, as `Head.set_prior` does."""
        self.biases.data.copy_(torch.logit(frequencies_C))

    def penalised(self) -> dict[Tensor, float]:
        """Weights with an L2 penalty `l2 * 0.5 * sum W^2`, and the l2 of each."""
        return {self.weights: self.config.l2}
