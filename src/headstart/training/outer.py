"""The outer optimiser: what is learned, and one AdamW over all of it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from headstart.algorithms.types import MetaGradient
from headstart.recipe import OuterSection

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for every tensor."""


class OuterOptimizer:
    """AdamW over an initialisation and the logarithms of its rates, with warm-up, cosine decay and clipping.

    Args:
        theta: the initialisation, without task axis.
        rates: tensor name -> `(K,)`, where the learned rates start; empty where rates are not learned.
        section: the recipe's outer section.
        frozen: whether the initialisation stays as it is, and the rates alone are learned.
    """

    def __init__(self, theta: Mapping[str, Tensor], rates: Mapping[str, Tensor], section: OuterSection, frozen: bool = False) -> None:
        self.theta = {name: tensor.detach().clone() for name, tensor in theta.items()}
        self.log_rates = {name: tensor.detach().log() for name, tensor in rates.items()}
        self.section, self.frozen = section, frozen
        groups = []
        if not frozen:
            groups.append({"params": list(self.theta.values()), "lr": section.learning_rate, "weight_decay": section.weight_decay})
        if self.log_rates:
            groups.append({"params": list(self.log_rates.values()), "lr": section.rates_learning_rate, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def rates(self) -> dict[str, Tensor]:
        """The learned rates themselves, tensor name -> `(K,)`."""
        return {name: tensor.exp() for name, tensor in self.log_rates.items()}

    def state(self) -> dict[str, Tensor]:
        """What it needs, besides theta, to go on to the same bits: the rates' logarithms, the moments and the step counts.

        Names are `log_rates/NAME` and `theta|log_rates/NAME/exp_avg|exp_avg_sq|step`; empty of moments before the first step.
        """
        tensors = {f"log_rates/{name}": tensor for name, tensor in self.log_rates.items()}
        for place, parameter in self._parameters().items():
            tensors |= {f"{place}/{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; nothing changes where it is empty. Theta is the one that this was made with."""
        for place, parameter in self._parameters().items():
            if place in tensors:
                parameter.copy_(tensors[place])
            moments = {key: tensors[f"{place}/{key}"].clone() for key in MOMENTS if f"{place}/{key}" in tensors}
            if moments:
                # torch keeps the count of steps on the CPU
                self.optimizer.state[parameter] = {key: value.cpu() if key == "step" else value for key, value in moments.items()}

    def _parameters(self) -> dict[str, Tensor]:
        groups = {"theta": self.theta, "log_rates": self.log_rates}
        return {f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in members.items()}

    def step(self, gradient: MetaGradient, step: int, progress: float) -> dict[str, float]:
        """Take one step; `progress` is the share of the phase done before it. Returns scalars for the log.

        The norm is of the initialisation's gradient, which is clipped by it; where that is frozen, of the rates', which never is.

        Raises:
            FloatingPointError: the gradient is not finite; nothing was changed.
        """
        learned = gradient.log_rates if self.frozen else gradient.theta
        norm = torch.stack([tensor.square().sum() for tensor in learned.values()]).sum().sqrt()
        if not torch.isfinite(norm):
            raise FloatingPointError("the meta-gradient is not finite; lower inner.learning_rate or outer.learning_rate")
        factor = min(1.0, self.section.max_grad_norm / (float(norm) + 1e-12))
        for name, tensor in ({} if self.frozen else self.theta).items():
            tensor.grad = gradient.theta[name].to(tensor.dtype) * factor
        for name, tensor in self.log_rates.items():
            tensor.grad = gradient.log_rates[name]
        scale = schedule(step, progress, self.section.warmup_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        self.optimizer.step()
        return {"grad_norm": float(norm), "learning_rate": self.peaks[0] * scale}


def schedule(step: int, progress: float, warmup_steps: int) -> float:
    """Linear warm-up over the first steps, times a cosine from 1 to 0 over the phase."""
    return min(1.0, (step + 1) / (warmup_steps + 1)) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
