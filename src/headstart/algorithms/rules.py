"""Inner update rules: from a gradient to the direction that a rate multiplies. Tasks never mix.

Every rule updates `phi_{k+1} = phi_k - rate_k * direction_k`, where the direction depends on gradients alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moments:
    """What a rule remembers between steps: Adam's running means of gradients and of their squares."""

    step: int
    first: Tensors
    second: Tensors


class Rule(Protocol):
    """An update rule as a pure function of gradients and memory."""

    def direction(self, gradients: Tensors, memory: Moments | None) -> tuple[dict[str, Tensor], Moments | None]:
        """The direction of one step, and the memory after it; `None` is the memory before the first step."""
        ...


@dataclass(frozen=True)
class Sgd:
    """Plain gradient steps, each task's whole gradient clipped to a norm.

    Args:
        max_norm: the largest norm over all of a task's tensors together; no clipping where it is None.
    """

    max_norm: float | None = 1.0

    def direction(self, gradients: Tensors, memory: Moments | None) -> tuple[dict[str, Tensor], None]:
        """The clipped gradient."""
        if self.max_norm is None:
            return dict(gradients), None
        # eps inside the root keeps the norm differentiable where a task's gradient is zero
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0)
        factor = (self.max_norm / (squares + 1e-12).sqrt()).clamp(max=1.0)
        return {name: gradient * _per_task(factor, gradient) for name, gradient in gradients.items()}, None


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (arXiv 1412.6980, algorithm 1); coordinates never mix, so neither do tasks."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def direction(self, gradients: Tensors, memory: Moments | None) -> tuple[dict[str, Tensor], Moments]:
        """The corrected first moment over the root of the corrected second."""
        step = memory.step + 1 if memory else 1
        first, second, direction = {}, {}, {}
        for name, gradient in gradients.items():
            before = (memory.first[name], memory.second[name]) if memory else (torch.zeros_like(gradient),) * 2
            first[name] = before[0].lerp(gradient, 1 - self.beta1)
            second[name] = before[1].lerp(gradient.square(), 1 - self.beta2)
            root = (second[name] / (1 - self.beta2**step)).sqrt() + self.eps
            direction[name] = first[name] / (1 - self.beta1**step) / root
        return direction, Moments(step, first, second)


RULES: dict[str, type[Sgd] | type[Adam]] = {"sgd": Sgd, "adam": Adam}


def _per_task(factor: Tensor, like: Tensor) -> Tensor:
    return factor.view(-1, *(1,) * (like.dim() - 1))
