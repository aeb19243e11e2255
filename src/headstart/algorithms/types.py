"""The types that algorithms share.

Shapes: an initialisation `theta` has no task axis; adapters in the inner loop, `phi`, lead with it: `(T, ...)`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from headstart.algorithms.rules import Rule

Tensors = Mapping[str, Tensor]
Losses = Callable[[Tensors, Any], Tensor]
"""`(phi, rows) -> (T,)`: every task's loss, differentiable in phi. What rows are is no concern of an algorithm."""


@dataclass(frozen=True)
class Batch:
    """What one meta-gradient is computed from.

    Args:
        support: one batch of rows for each inner step; where there are fewer, they are gone through again.
        query: the rows that the adapted adapters are judged on.
        tasks: T.
    """

    support: Sequence[Any]
    query: Any
    tasks: int


@dataclass(frozen=True)
class InnerLoop:
    """How a task is adapted to.

    Args:
        rule: the update rule.
        steps: K, the number of steps.
        rates: tensor name -> `(K,)`, the rate of each step; a tensor without one does not adapt.
    """

    rule: Rule
    steps: int
    rates: Tensors


@dataclass(frozen=True)
class MetaGradient:
    """The gradient of the mean over tasks of what the algorithm minimises; as small as the adapter.

    Args:
        theta: tensor name -> gradient, without task axis.
        log_rates: tensor name -> `(K,)`; empty where rates are not learned.
        metrics: means over tasks, for the log.
    """

    theta: dict[str, Tensor]
    log_rates: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Algorithm(Protocol):
    """A meta-gradient of `losses` at `theta`."""

    def __call__(self, losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
        """The meta-gradient of one batch; `theta` has no task axis."""
        ...
