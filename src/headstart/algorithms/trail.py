"""The trail of an inner loop: what its steps leave behind so that they can be gone back, and how much memory that takes.

Three ways to the same: `keep` holds every step's record where it was made, `offload` in the host's memory, and `recompute`
holds the states at every ceil(sqrt(K))-th step alone and takes the steps between them again on the way back (arXiv
1604.06174, section 4). What is the start's own, the tensors that do not adapt and all of phi_0, is held by nobody twice.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headstart.algorithms.inner import State, Step, go_on
from headstart.algorithms.rules import Moments, Rule
from headstart.algorithms.types import InnerLoop, InnerStates, Losses, Tensors


@dataclass(frozen=True)
class Record:
    """What one inner step leaves behind; what the way back does not ask for is empty.

    Args:
        phi: the adapters before the step; of the tensors that adapt, and empty in the first step.
        gradient: their gradient, or that of all tensors where the step's support loss weighs.
        memory: the rule's, before the step.
        direction: what the rate multiplied.
    """

    phi: Tensors
    gradient: Tensors
    memory: Moments | None
    direction: Tensors

    def tensors(self) -> list[Tensor]:
        """All tensors that it holds."""
        moments = (self.memory.first, self.memory.second) if self.memory else ()
        return [tensor for part in (self.phi, self.gradient, *moments, self.direction) for tensor in part.values()]

    def to(self, device: torch.device | str) -> "Record":
        """Itself on a device; copies are queued behind what is being computed, through pinned memory, and nobody waits for them."""

        def moved(tensors: Tensors) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        memory = self.memory and Moments(self.memory.step, moved(self.memory.first), moved(self.memory.second))
        return Record(moved(self.phi), moved(self.gradient), memory, moved(self.direction))


class Trail:
    """One inner loop, gone there once and back once.

    A way back of first order asks for directions alone, for the adapters where a query loss weighs, and for the gradient where
    a support loss does; the exact one asks for the adapters, the gradient and the rule's memory, from which the direction follows.

    Args:
        losses: `(phi, rows) -> (T,)`.
        start: the adapters before the first step.
        support: batches of rows, one a step.
        inner: the loop.

    `first_losses` are the support losses `(T,)` before the first step, once it is gone; None where there is no step.
    """

    def __init__(self, losses: Losses, start: Tensors, support: Sequence[Any], inner: InnerLoop) -> None:
        self.losses, self.start, self.support, self.inner = losses, start, support, inner
        self.first_losses: Tensor | None = None
        self._device = next(iter(start.values())).device
        self._stretches = stretches(inner.steps, inner.inner_states)
        self._corners: list[State] = []
        self._records: list[Record] = []

    def there(self) -> Tensors:
        """Take all steps, leaving the state before each stretch and the records of the last one; the adapters they lead to.

        Raises:
            RoughRuleError: the way back is exact, and the rule has no usable derivative.
        """
        state = State(dict(self.start))
        starts = [stretch.start for stretch in self._stretches]
        for index, step in enumerate(self._steps(state, range(self.inner.steps))):
            if index == 0:
                self._begin(step)
            if index in starts:
                self._corners.append(state)
            if index >= starts[-1]:
                self._leave(index, state, step)
            state = step.after
        return state.phi

    def back(self) -> Iterator[tuple[int, Record]]:
        """The steps' numbers and records with all of phi, the last step first; each is let go after its turn."""
        for stretch in reversed(self._stretches):
            if not self._records:
                self._take_again(stretch)
            for index in reversed(stretch):
                record = self._records[-1].to(self._device)
                yield index, replace(record, phi={**self.start, **record.phi})
                del record
                self._records.pop()
            self._corners.pop()

    def held(self) -> list[Tensor]:
        """The tensors that it holds now, without those of the start; some may be held twice over."""
        corners = [Record(self._adapting(state.phi), {}, state.memory, {}) for state in self._corners[1:]]
        return [tensor for record in (*corners, *self._records) for tensor in record.tensors()]

    def _steps(self, state: State, steps: range) -> Iterator[Step]:
        rule, rates = self.inner.rule, self.inner.rates
        return go_on(self.losses, state, self.support, rule, rates, steps, whole=lambda index: self.inner.path_weights[index] > 0)

    def _begin(self, step: Step) -> None:
        self.first_losses = step.losses
        if self.inner.second_order:
            self.inner.rule.require_smooth(self._adapting(step.gradient))

    def _take_again(self, stretch: range) -> None:
        state = self._corners[-1]
        for index, step in zip(stretch, self._steps(state, stretch), strict=True):
            self._leave(index, state, step)
            state = step.after

    def _leave(self, index: int, before: State, step: Step) -> None:
        exact = self.inner.second_order > 0
        phi = self._adapting(before.phi) if index and (exact or self.inner.weights[index]) else {}
        gradient = step.gradient if exact or self.inner.path_weights[index] else {}
        record = Record(phi, gradient, before.memory, {}) if exact else Record(phi, gradient, None, step.direction)
        self._records.append(record.to("cpu") if self.inner.inner_states == "offload" else record)

    def _adapting(self, phi: Tensors) -> dict[str, Tensor]:
        return {name: phi[name] for name in self.inner.rates}


def stretches(steps: int, inner_states: InnerStates) -> list[range]:
    """The stretches of K steps that are held together: all of them, or ceil(sqrt(K)) at a time where they are taken again."""
    every = max(1, math.isqrt(steps - 1) + 1 if inner_states == "recompute" and steps else steps)
    return [range(first, min(first + every, steps)) for first in range(0, steps, every)]


@dataclass(frozen=True)
class StateBytes:
    """The most bytes that inner states take at once on the device, and in the host's memory away from it."""

    device: int
    host: int


def state_bytes(
    shapes: Mapping[str, Sequence[int]],
    tasks: int,
    steps: int,
    rule: Rule,
    inner_states: InnerStates = "keep",
    dtype: torch.dtype = torch.float32,
) -> StateBytes:
    """What a trail with an exact way back holds at its fullest; one of first order holds no more.

    Every step leaves a gradient, and every step but the first the adapters and what the rule remembers before it: phi_0 is a
    view on the initialisation, which is there anyway, and the rule then remembers nothing. What is being computed at the
    moment is not counted. On the CPU there is no away, and `offload` is `keep`.

    Args:
        shapes: tensor name -> shape without task axis, of the tensors that adapt.
        tasks: T, computed together.
        steps: K.
        rule: the inner rule.
        inner_states: where they wait.
        dtype: the adapters' type.
    """
    gradient = tasks * dtype.itemsize * sum(math.prod(shape) for shape in shapes.values())
    state = (1 + rule.remembered) * gradient
    # a stretch's first state is held with those of the stretches before it
    fullest = max(
        (
            number * state + len(stretch) * gradient + (len(stretch) - 1) * state
            for number, stretch in enumerate(stretches(steps, inner_states))
        ),
        default=0,
    )
    if inner_states != "offload":
        return StateBytes(fullest, 0)
    # the record whose turn it is
    return StateBytes(min(steps, 1) * gradient + min(max(steps - 1, 0), 1) * state, fullest)
