"""Adam with L2 penalties, the gradient of every variable clipped by itself, in one pass over the memory.

PyTorch's own fused kernel does the work. It divides gradients by a scale on the way, which is where the clipping goes,
and it takes any rows of a matrix, so that a gradient that is known as thin matrices (`thin.py`) is built, used and
forgotten some rows at a time.

Source: Kingma & Ba 2015 (arXiv 1412.6980), with PyTorch's defaults.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vidfit.kernels.factored_gradients import BLOCK, Thin

Moments = tuple[Tensor, Tensor]


class Adam:
    """The moments of some parameters, and what is done with them.

    Arguments:
        parameters: by name.
        penalised: parameters with a penalty `l2 * 0.5 * sum W^2`, and its l2.
        clip_norm: largest norm of a variable's gradient, penalty included.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, Tensor]], penalised: Mapping[Tensor, float], clip_norm: float
    ) -> None:
        self._parameters = dict(parameters)
        self._penalised = penalised
        self._clip_norm = clip_norm
        self._steps = 0
        self._moments: dict[str, Moments] = {}

    @torch.no_grad()
    def step(self, learning_rate: float, thin: Mapping[Tensor, Thin]) -> None:
        """Move the parameters against their gradients, and forget these.

        Arguments:
            learning_rate: of this step.
            thin: gradients that are not in `grad`; where one is there too, their sum counts.
        """
        self._steps += 1
        # Not `torch.tensor`, which waits for the device.
        count = torch.full((), float(self._steps), device=next(iter(self._parameters.values())).device)
        whole: list[tuple[Tensor, Tensor, Moments]] = []
        for name, parameter in self._parameters.items():
            gradient, factors, l2 = parameter.grad, thin.get(parameter), self._penalised.get(parameter, 0.0)
            if name not in self._moments:
                self._moments[name] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            moments = self._moments[name]
            if gradient is not None:
                if factors is not None:
                    gradient.addmm_(factors.inputs_BP.T, factors.gradients_BH)
                if l2:
                    gradient.add_(parameter, alpha=l2)
                whole.append((parameter, gradient, moments))
            elif factors is not None:
                self._update_by_blocks(parameter, factors, l2, moments, learning_rate, count)
        if not whole:
            return
        # All norms together: on a GPU it takes longer to launch a kernel than to run such a one.
        norms = torch.ops.aten._foreach_norm([gradient for _, gradient, _ in whole])
        for (parameter, gradient, moments), excess in zip(whole, self._excess(list(norms)), strict=True):
            self._update(parameter, gradient, moments, learning_rate, count, excess)
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """The moments by `exp_avg.PARAMETER` and `exp_avg_sq.PARAMETER`; none before the first step."""
        return {
            f"{moment}.{name}": tensor
            for name, moments in self._moments.items()
            for moment, tensor in zip(("exp_avg", "exp_avg_sq"), moments, strict=True)
        }

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from what `state` gave after so many steps."""
        self._steps = steps
        self._moments = {
            name: (
                state[f"exp_avg.{name}"].to(parameter.device),
                state[f"exp_avg_sq.{name}"].to(parameter.device),
            )
            for name, parameter in self._parameters.items()
        }

    def _update_by_blocks(
        self, parameter: Tensor, thin: Thin, l2: float, moments: Moments, learning_rate: float, count: Tensor
    ) -> None:
        excess = self._excess([thin.norm(parameter, l2)])[0].item()
        rows = max(1, BLOCK // parameter.shape[1])
        buffer = parameter.new_empty(rows, parameter.shape[1])
        for start in range(0, len(parameter), rows):
            part = slice(start, min(start + rows, len(parameter)))
            gradient = torch.addmm(
                parameter[part],
                thin.inputs_BP[:, part].T,
                thin.gradients_BH,
                beta=l2 / excess,
                alpha=1 / excess,
                out=buffer[: part.stop - start],
            )
            self._update(parameter[part], gradient, (moments[0][part], moments[1][part]), learning_rate, count, None)

    def _update(
        self,
        parameter: Tensor,
        gradient: Tensor,
        moments: Moments,
        learning_rate: float,
        count: Tensor,
        excess: Tensor | None,
    ) -> None:
        # What `torch.optim.Adam(fused=True)` calls, which has one scale for all parameters and knows no rows of one.
        torch.ops.aten._fused_adam_(
            [parameter],
            [gradient],
            [moments[0]],
            [moments[1]],
            [],
            [count],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=excess,
        )

    def _excess(self, norms: list[Tensor]) -> list[Tensor]:
        """What to divide gradients of these norms by."""
        return list(torch.ops.aten._foreach_clamp_min(torch.ops.aten._foreach_div(norms, self._clip_norm), 1.0))
