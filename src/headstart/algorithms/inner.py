"""The inner loop: adapting T tasks at once, each along its own gradient."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.algorithms.rules import Rule
from headstart.algorithms.types import Losses, Tensors


@dataclass(frozen=True)
class Step:
    """One inner step as it was taken.

    Args:
        losses: `(T,)` before the step.
        direction: tensor name -> `(T, ...)`, what the rate multiplied.
        phi: the adapters after the step.
    """

    losses: Tensor
    direction: dict[str, Tensor]
    phi: dict[str, Tensor]


def expand(theta: Tensors, tasks: int) -> dict[str, Tensor]:
    """The same initialisation for every task: adds the leading task axis."""
    return {name: tensor.detach().expand(tasks, *tensor.shape) for name, tensor in theta.items()}


def gradients(losses: Losses, phi: Tensors, rows: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses `(T,)` and every task's own gradient: tasks are independent, so the sum's gradient is all of theirs."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in phi.items()}
    values = losses(leaves, rows)
    found = torch.autograd.grad(values.sum(), list(leaves.values()))
    return values.detach(), dict(zip(leaves, found, strict=True))


def walk(losses: Losses, phi: Tensors, support: Sequence[Any], rule: Rule, rates: Mapping[str, Tensor], steps: int) -> Iterator[Step]:
    """Take `steps` inner steps from `phi`, yielding each.

    Past the last rate given, that rate goes on; support batches are gone through again. Nothing here is differentiated
    through: an algorithm that needs to know how a step depended on the one before says so with the rule's own derivative.

    Args:
        phi: tensor name -> `(T, ...)`.
        support: batches of rows, one a step.
        rates: tensor name -> `(K,)`, K at least 1.
        steps: how many steps to take.
    """
    memory = None
    for index in range(steps):
        values, found = gradients(losses, phi, support[index % len(support)])
        direction, memory = rule.direction(found, memory)
        phi = {name: tensor - rates[name][min(index, len(rates[name]) - 1)] * direction[name] for name, tensor in phi.items()}
        yield Step(values, direction, dict(phi))
