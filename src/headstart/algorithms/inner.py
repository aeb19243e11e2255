"""The inner loop: adapting T tasks at once, each along its own gradient."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.algorithms.rates import rate_at, scaled
from headstart.algorithms.rules import Moments, Rule
from headstart.algorithms.types import Losses, Tensors


@dataclass(frozen=True)
class State:
    """Between two inner steps.

    Args:
        phi: tensor name -> `(T, ...)`, all tensors.
        memory: what the rule remembers; None before the first step, and of rules that remember nothing.
    """

    phi: dict[str, Tensor]
    memory: Moments | None = None


@dataclass(frozen=True)
class Step:
    """One inner step as it was taken.

    Args:
        losses: `(T,)` before the step.
        gradient: tensor name -> `(T, ...)`, before the step; of the tensors that adapt, or of all where that was asked for.
        direction: tensor name -> `(T, ...)`, what the rate multiplied; of the tensors that adapt.
        after: the adapters and the rule's memory after the step.
    """

    losses: Tensor
    gradient: dict[str, Tensor]
    direction: dict[str, Tensor]
    after: State

    @property
    def phi(self) -> dict[str, Tensor]:
        """The adapters after the step."""
        return self.after.phi


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


def moved(phi: Tensors, direction: Tensors, rates: Tensors) -> dict[str, Tensor]:
    """The adapters after a step in a direction; rates are one step's, as `scaled` takes them, of the tensors that adapt."""
    return {**phi, **{name: phi[name] - scaled(name, rate, direction[name]) for name, rate in rates.items()}}


def walk(losses: Losses, phi: Tensors, support: Sequence[Any], rule: Rule, rates: Mapping[str, Tensor], steps: int) -> Iterator[Step]:
    """Take `steps` inner steps from `phi`, yielding each.

    A tensor without a rate stays as it is (ANIL, arXiv 1909.09157). Past the last rate given, that rate goes on; support
    batches are gone through again. Nothing here is differentiated through: an algorithm that needs to know how a step
    depended on the one before says so with the rule's own derivative.

    Args:
        phi: tensor name -> `(T, ...)`.
        support: batches of rows, one a step.
        rates: tensor name -> `(K,)` or `(K, r, r)`, K at least 1; of the tensors that adapt.
        steps: how many steps to take.
    """
    return go_on(losses, State(dict(phi)), support, rule, rates, range(steps))


def go_on(
    losses: Losses,
    state: State,
    support: Sequence[Any],
    rule: Rule,
    rates: Tensors,
    steps: range,
    whole: Callable[[int], bool] = lambda step: False,
) -> Iterator[Step]:
    """As `walk`, from the state before the first of `steps`, which are numbered as in the whole loop.

    `whole` says of which steps the gradient is wanted in all tensors, and not in those alone that adapt.
    """
    for index in steps:
        values, found = gradients(losses, state.phi, support[index % len(support)], None if whole(index) else rates)
        direction, memory = rule.direction({name: found[name] for name in rates}, state.memory)
        state = State(moved(state.phi, direction, {name: rate_at(rate, index) for name, rate in rates.items()}), memory)
        yield Step(values, found, direction, state)
