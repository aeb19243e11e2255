"""The outer optimiser: what is learned, one AdamW over all of it, and the average of where it was.

Beside Adam, and decoupled from it as weight decay is (arXiv 1711.05101), `proximal` pulls the initialisation back to where its phase
began: the quadratic term of iMAML (arXiv 1909.04630, equation 3), on the outer iterate. With `ema_decay` d an exponential moving average
of the iterates x is kept beside them (Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992), corrected for
its start as Adam's moments are, a_t = sum_i (1 - d) d^(t-i) x_i / (1 - d^t): the optimiser goes on from its own iterate, and the average
is what a phase leaves.

Rates are learned by their logarithms. Where they are matrices (`algorithms.rates`), what multiplies the numbers, one matrix for all of a
tensor's steps, is learned as it is: dL/dM = sum_k rate_k dL/d(rate_k M).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from headstart.algorithms.rates import joined, parted
from headstart.algorithms.types import MetaGradient
from headstart.recipe import OuterSection

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for every tensor."""
AVERAGE = "average/"
"""Goes before the names of averages in what the optimiser keeps."""


class OuterOptimizer:
    """AdamW over an initialisation and its rates, in their parts, with warm-up, decay, clipping, a pull back and averages.

    Args:
        theta: the initialisation, without task axis.
        rates: tensor name -> `(K,)` or `(K, r, r)`, where the learned rates start; empty where rates are not learned.
        section: the recipe's outer section, as the phase has it.
        frozen: whether the initialisation stays as it is, and the rates alone are learned.
        start: the initialisation that the phase began with, to which it is pulled back; `theta` where None.
    """

    def __init__(
        self,
        theta: Mapping[str, Tensor],
        rates: Mapping[str, Tensor],
        section: OuterSection,
        frozen: bool = False,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.theta = {name: tensor.detach().clone() for name, tensor in theta.items()}
        parts = {name: parted(tensor.detach()) for name, tensor in rates.items()}
        self.log_rates = {name: numbers.log() for name, (numbers, _) in parts.items()}
        self.preconditioners = {name: matrix for name, (_, matrix) in parts.items() if matrix is not None}
        self.section, self.frozen, self.start = section, frozen, theta if start is None else start
        groups = []
        if not frozen:
            groups.append({"params": list(self.theta.values()), "lr": section.learning_rate, "weight_decay": section.weight_decay})
        for members in (self.log_rates, self.preconditioners):
            if members:
                groups.append({"params": list(members.values()), "lr": section.rates_learning_rate, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.averages = {place: tensor.clone() for place, tensor in self._learned().items()} if section.ema_decay else {}

    @property
    def rates(self) -> dict[str, Tensor]:
        """The learned rates themselves, tensor name -> `(K,)`, or `(K, r, r)` where they have a preconditioner."""
        return _rates(self.log_rates, self.preconditioners)

    def state(self) -> dict[str, Tensor]:
        """What it needs, besides theta, to go on to the same bits: the rates' parts, the moments, the step counts, the averages.

        Names are `log_rates|preconditioners/NAME`, `theta|log_rates|preconditioners/NAME/exp_avg|exp_avg_sq|step` and
        `average/theta|log_rates|preconditioners/NAME`; empty of moments before the first step.
        """
        learned = self._learned()
        tensors = {place: tensor for place, tensor in learned.items() if not place.startswith("theta/")}
        for place, parameter in learned.items():
            tensors |= {f"{place}/{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        return tensors | {f"{AVERAGE}{place}": average for place, average in self.averages.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; nothing changes where it is empty. Theta is the one that this was made with."""
        for place, parameter in self._learned().items():
            if place in tensors:
                parameter.copy_(tensors[place])
            moments = {key: tensors[f"{place}/{key}"].clone() for key in MOMENTS if f"{place}/{key}" in tensors}
            if moments:
                # torch keeps the count of steps on the CPU
                self.optimizer.state[parameter] = {key: value.cpu() if key == "step" else value for key, value in moments.items()}
        for place, average in self.averages.items():
            if f"{AVERAGE}{place}" in tensors:
                average.copy_(tensors[f"{AVERAGE}{place}"])

    def _learned(self) -> dict[str, Tensor]:
        theta = {} if self.frozen else self.theta
        groups = {"theta": theta, "log_rates": self.log_rates, "preconditioners": self.preconditioners}
        return {f"{group}/{name}": tensor for group, members in groups.items() for name, tensor in members.items()}

    def step(self, gradient: MetaGradient, step: int, progress: float) -> dict[str, float]:
        """Take one step; `step` are the phase's steps before it, and `progress` is the share of the phase. Returns scalars for the log.

        The norm is of the initialisation's gradient, which is clipped by it; where that is frozen, of the rates', which never is.

        Raises:
            FloatingPointError: the gradient is not finite; nothing was changed.
        """
        matrices = self._preconditioner_gradients(gradient)
        learned = [*gradient.log_rates.values(), *matrices.values()] if self.frozen else gradient.theta.values()
        norm = torch.stack([tensor.square().sum() for tensor in learned]).sum().sqrt()
        if not torch.isfinite(norm):
            raise FloatingPointError("the meta-gradient is not finite; lower inner.learning_rate, outer.learning_rate or the phase's")
        factor = min(1.0, self.section.max_grad_norm / (float(norm) + 1e-12))
        for name, tensor in ({} if self.frozen else self.theta).items():
            tensor.grad = gradient.theta[name].to(tensor.dtype) * factor
        for name, tensor in self.log_rates.items():
            tensor.grad = gradient.log_rates[name]
        for name, tensor in self.preconditioners.items():
            tensor.grad = matrices[name]
        scale = schedule(step, progress, self.section.warmup_steps, self.section.lr_scheduler_type)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        self._pull_back(self.peaks[0] * scale)
        self.optimizer.step()
        self._average(step + 1)
        return {"grad_norm": float(norm), "learning_rate": self.peaks[0] * scale}

    def _preconditioner_gradients(self, gradient: MetaGradient) -> dict[str, Tensor]:
        """By the chain rule: a step's rate is its number times the preconditioner."""
        return {name: torch.tensordot(self.log_rates[name].exp(), gradient.matrix_rates[name], 1) for name in self.preconditioners}

    def _pull_back(self, learning_rate: float) -> None:
        """`theta <- theta - learning_rate * proximal * (theta - start)`, before Adam's own step, as AdamW decays weights."""
        if self.section.proximal and not self.frozen:
            for name, tensor in self.theta.items():
                tensor.lerp_(self.start[name], learning_rate * self.section.proximal)

    def _average(self, count: int) -> None:
        """Take the iterate after so many steps of the phase into the averages; the first one's weight is 1."""
        decay, learned = self.section.ema_decay, self._learned()
        for place, average in self.averages.items():
            average.lerp_(learned[place], (1 - decay) / (1 - decay**count))


def averages(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The averaged initialisation and rates among what `OuterOptimizer.state` gave, by name; empty where none are kept of them."""
    theta, log_rates, preconditioners = (
        {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        for start in (f"{AVERAGE}theta/", f"{AVERAGE}log_rates/", f"{AVERAGE}preconditioners/")
    )
    return theta, _rates(log_rates, preconditioners)


def _rates(log_rates: Mapping[str, Tensor], preconditioners: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: joined(tensor.exp(), preconditioners.get(name)) for name, tensor in log_rates.items()}


def schedule(step: int, progress: float, warmup_steps: int, kind: str = "cosine") -> float:
    """Linear warm-up over the first steps, times the decay over the phase, of which the share `progress` is done.

    `kind` is `cosine` or `linear`, from 1 to 0, or `constant_with_warmup`, which is 1 throughout: transformers' names. Warm-up and decay
    overlap, as the length of a phase in steps need not be known.
    """
    done = min(progress, 1.0)
    decays = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant_with_warmup": 1.0}
    return min(1.0, (step + 1) / (warmup_steps + 1)) * decays[kind]
