"""Adam with L2 penalties, and each tensor's gradient clipped on its own, as the original clips.

Source: Kingma & Ba 2015 (arXiv 1412.6980), with PyTorch's defaults.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vidfit.kernels.factored_gradients import FactoredGradient, adam_step

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Adam:
    """`torch.optim.Adam` on clipped gradients.

    Arguments:
        parameters: by name.
        penalised: parameters with a penalty `l2 * 0.5 * sum W^2`, and its l2.
        max_norm: each tensor's gradient, penalty included, is scaled down to this norm.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, Tensor]], penalised: Mapping[Tensor, float], max_norm: float
    ) -> None:
        self._parameters = dict(parameters)
        self._penalised, self._max_norm = penalised, max_norm
        self._adam = torch.optim.Adam(self._parameters.values(), fused=True)

    @torch.no_grad()
    def step(self, learning_rate: float, factored: Mapping[Tensor, FactoredGradient]) -> None:
        """Move the parameters against their gradients, then drop the gradients.

        Arguments:
            learning_rate: of this step.
            factored: gradients that are not in `grad`. If a parameter has both, their sum counts.
        """
        factored = dict(factored)
        for parameter in list(factored):
            if parameter.grad is not None:
                gradient = factored.pop(parameter)
                parameter.grad.addmm_(gradient.inputs_BP.T, gradient.gradients_BH)
        for parameter, l2 in self._penalised.items():
            if l2 and parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=l2)
        clip_each_(self._parameters.values(), self._max_norm)
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._adam.zero_grad()
        for parameter, gradient in factored.items():
            l2, state = self._penalised.get(parameter, 0.0), self._state(parameter)
            state["step"] += 1
            adam_step(parameter, gradient, l2, self._max_norm, state, learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Adam's moments as `exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`; empty before the first step."""
        if not self._adam.state:
            return {}
        return {
            f"{moment}.{name}": self._state(parameter)[moment]
            for name, parameter in self._parameters.items()
            for moment in _MOMENTS
        }

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Resume from what `state` gave after so many steps."""
        for name, parameter in self._parameters.items():
            own = self._state(parameter)
            own["step"].fill_(steps)
            for moment in _MOMENTS:
                own[moment] = state[f"{moment}.{name}"].to(parameter.device)

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        """`torch.optim.Adam`'s state of a parameter. It has none for a parameter without a gradient so far."""
        state = self._adam.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state.update({moment: torch.zeros_like(parameter) for moment in _MOMENTS})
        return state


def clip_each_(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale each tensor's gradient down to `max_norm` on its own, in place."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    # All norms together: on a GPU launching a kernel takes longer than such a kernel runs. `clip_grad_norm_` would be
    # one call per tensor, and it adds 1e-6 to the norm.
    # Overloads are named: to find them, PyTorch writes each tensor as text, which takes 5 ms a step.
    operators = torch.ops.aten
    norms = operators._foreach_norm.Scalar(gradients)
    scales = operators._foreach_clamp_min.Scalar(operators._foreach_div.Scalar(norms, max_norm), 1.0)
    operators._foreach_div_.List(gradients, scales)
