"""Inner update rules: from a gradient to the direction that a rate multiplies. Tasks never mix.

Every rule updates `phi_{k+1} = phi_k - rate_k * direction_k`, where the direction depends on gradients alone.
A rule is differentiable where `require_smooth` lets it pass; `pull_back` is its derivative.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moments:
    """What a rule remembers between steps: Adam's running means of gradients and of their squares."""

    step: int
    first: Tensors
    second: Tensors


class RoughRuleError(ValueError):
    """A rule has no usable derivative where it is asked for; the message says why, and how to mend it."""


class Rule(Protocol):
    """An update rule as a pure function of gradients and memory."""

    remembered: ClassVar[int]
    """How many tensors of a gradient's size it remembers for each gradient."""

    def direction(self, gradients: Tensors, memory: Moments | None) -> tuple[dict[str, Tensor], Moments | None]:
        """The direction of one step, and the memory after it; `None` is the memory before the first step."""
        ...

    def require_smooth(self, gradients: Tensors) -> None:
        """See that the rule can be differentiated through from these first gradients on.

        Raises:
            RoughRuleError: its derivative is infinite there, or so large that it drowns everything else.
        """
        ...


@dataclass(frozen=True)
class Sgd:
    """Plain gradient steps, each task's whole gradient clipped to a norm.

    Args:
        max_norm: the largest norm over all of a task's tensors together; no clipping where it is None.
    """

    remembered: ClassVar[int] = 0
    max_norm: float | None = 1.0

    def direction(self, gradients: Tensors, memory: Moments | None) -> tuple[dict[str, Tensor], None]:
        """The clipped gradient."""
        if self.max_norm is None:
            return dict(gradients), None
        # eps inside the root keeps the norm differentiable where a task's gradient is zero
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0)
        factor = (self.max_norm / (squares + 1e-12).sqrt()).clamp(max=1.0)
        return {name: gradient * per_task(factor, gradient) for name, gradient in gradients.items()}, None

    def require_smooth(self, gradients: Tensors) -> None:
        """It is smooth but for a kink where clipping sets in."""


FRESH_EPS_ROOT = 1e-4
"""The least `eps_root` of an Adam that is differentiated through from tensors whose gradient is exactly zero, as A's is while B = 0."""


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (arXiv 1412.6980, algorithm 1); coordinates never mix, so neither do tasks.

    Args:
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of their squares.
        eps: added to the root of the second moment.
        eps_root: added inside that root (optax's name). The derivative of the direction where a gradient is zero is
            `1 / (sqrt(eps_root) + eps)` in the first step, and not a number in the second where it is 0.
    """

    remembered: ClassVar[int] = 2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    eps_root: float = 0.0

    def direction(self, gradients: Tensors, memory: Moments | None) -> tuple[dict[str, Tensor], Moments]:
        """The corrected first moment over the root of the corrected second."""
        step = memory.step + 1 if memory else 1
        first, second, direction = {}, {}, {}
        for name, gradient in gradients.items():
            before = (memory.first[name], memory.second[name]) if memory else (torch.zeros_like(gradient),) * 2
            first[name] = before[0].lerp(gradient, 1 - self.beta1)
            second[name] = before[1].lerp(gradient.square(), 1 - self.beta2)
            root = (second[name] / (1 - self.beta2**step) + self.eps_root).sqrt() + self.eps
            direction[name] = first[name] / (1 - self.beta1**step) / root
        return direction, Moments(step, first, second)

    def require_smooth(self, gradients: Tensors) -> None:
        """It is smooth where `eps_root` is positive, and tame from a zero gradient where it is at least `FRESH_EPS_ROOT`."""
        if self.eps_root <= 0:
            raise RoughRuleError("the root in Adam has no derivative where a gradient is zero; give it a positive eps_root, or use sgd")
        if self.eps_root >= FRESH_EPS_ROOT:
            return
        moves = torch.stack([gradient.any() for gradient in gradients.values()]).tolist() if gradients else []
        still = [name for name, any_moves in zip(gradients, moves, strict=True) if not any_moves]
        if still:
            raise RoughRuleError(
                f"the first inner gradient of {still[0]} ({len(still)} such) is exactly zero, as A's is while B = 0; derivatives "
                f"through Adam blow up there: train B first by another algorithm, raise eps_root to {FRESH_EPS_ROOT:g}, or use sgd"
            )


RULES: dict[str, type[Sgd] | type[Adam]] = {"sgd": Sgd, "adam": Adam}


@dataclass(frozen=True)
class Pull:
    """What a step of a rule passes back: cotangents of what it was given.

    Args:
        direction: the step's direction, computed again.
        gradients: cotangent of the gradients.
        memory: cotangent of the memory before the step; None in the first step, which has none.
    """

    direction: Tensors
    gradients: Tensors
    memory: Moments | None


def pull_back(rule: Rule, gradients: Tensors, memory: Moments | None, direction: Tensors, after: Moments | None) -> Pull:
    """The vector-Jacobian product of one step of a rule, by autograd: any rule's.

    Args:
        rule: the rule.
        gradients: tensor name -> `(T, ...)`, what the step was given.
        memory: before the step.
        direction: cotangent of the step's direction.
        after: cotangent of the memory after the step; None where nothing depends on it.
    """
    with torch.enable_grad():
        given, remembered = _leaves(gradients), _memory_leaves(memory)
        towards, kept = rule.direction(given, remembered)
        outputs, cotangents = list(towards.values()), [direction[name] for name in towards]
        if kept and after:
            outputs += [*kept.first.values(), *kept.second.values()]
            cotangents += [*(after.first[name] for name in kept.first), *(after.second[name] for name in kept.second)]
        inputs = [*given.values(), *([*remembered.first.values(), *remembered.second.values()] if remembered else [])]
        found = iter(torch.autograd.grad(outputs, inputs, cotangents, materialize_grads=True))
    own = {name: next(found) for name in given}
    before = remembered and Moments(
        remembered.step, {name: next(found) for name in remembered.first}, {name: next(found) for name in remembered.second}
    )
    return Pull({name: tensor.detach() for name, tensor in towards.items()}, own, before)


def _leaves(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}


def _memory_leaves(memory: Moments | None) -> Moments | None:
    return memory and Moments(memory.step, _leaves(memory.first), _leaves(memory.second))


def per_task(factor: Tensor, like: Tensor) -> Tensor:
    """A factor `(T,)` in the shape that multiplies a tensor `(T, ...)` task by task."""
    return factor.view(-1, *(1,) * (like.dim() - 1))
