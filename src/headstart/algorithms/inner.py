"""The inner loop: adapting T tasks at once, each along its own gradient."""

from collections.abc import Collection, Iterator, Mapping, Sequence
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
        direction: tensor name -> `(T, ...)`, what the rate multiplied; of the tensors that adapt.
        phi: the adapters after the step.
    """

    losses: Tensor
    direction: dict[str, Tensor]
    phi: dict[str, Tensor]


def expand(theta: Tensors, tasks: int) -> dict[str, Tensor]:
    """The same initialisation for every task: adds the leading task axis."""
    return {name: tensor.detach().expand(tasks, *tensor.shape) for name, tensor in theta.items()}


def gradients(losses: Losses, phi: Tensors, rows: Any, names: Collection[str] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses `(T,)` and every task's own gradient: tasks are independent, so the sum's gradient is all of theirs.

    In the tensors named; in all where `names` is None.
    """
    leaves = {name: phi[name].detach().requires_grad_() for name in (phi if names is None else names)}
    values = losses({**phi, **leaves}, rows)
    found = torch.autograd.grad(values.sum(), list(leaves.values()))
    return values.detach(), dict(zip(leaves, found, strict=True))


def walk(losses: Losses, phi: Tensors, support: Sequence[Any], rule: Rule, rates: Mapping[str, Tensor], steps: int) -> Iterator[Step]:
    """Take `steps` inner steps from `phi`, yielding each.

    A tensor without a rate stays as it is (ANIL, arXiv 1909.09157). Past the last rate given, that rate goes on; support
    batches are gone through again. Nothing here is differentiated through: an algorithm that needs to know how a step
    depended on the one before says so with the rule's own derivative.

    Args:
        phi: tensor name -> `(T, ...)`.
        support: batches of rows, one a step.
        rates: tensor name -> `(K,)`, K at least 1; of the tensors that adapt.
        steps: how many steps to take.
    """
    memory = None
    for index in range(steps):
        values, found = gradients(losses, phi, support[index % len(support)], rates)
        direction, memory = rule.direction(found, memory)
        phi = {**phi, **{name: phi[name] - rate[min(index, len(rate) - 1)] * direction[name] for name, rate in rates.items()}}
        yield Step(values, direction, dict(phi))
