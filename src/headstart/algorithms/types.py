"""The types that algorithms share.

Shapes: an initialisation `theta` has no task axis; adapters in the inner loop, `phi`, lead with it: `(T, ...)`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from headstart.algorithms.rules import Rule

Tensors = Mapping[str, Tensor]
Losses = Callable[[Tensors, Any], Tensor]
"""`(phi, rows) -> (T,)`: every task's loss, differentiable in phi. What rows are is no concern of an algorithm."""

InnerStates = Literal["keep", "offload", "recompute"]
"""Where the states of an inner loop wait until it is gone back: on the device, in the host's memory, or nowhere."""


class HVP(Protocol):
    """A Hessian-vector product of losses: `d/ds grad losses(phi + s w)` at s = 0."""

    def __call__(self, losses: Losses, phi: Tensors, rows: Any, w: Tensors) -> dict[str, Tensor]:
        """The product at phi: tensor name -> `(T, ...)`, for every name of phi; each task's own.

        Args:
            losses: `(phi, rows) -> (T,)`.
            phi: tensor name -> `(T, ...)`.
            rows: what the losses are of.
            w: tensor name -> `(T, ...)`, the direction; zero in the tensors it has not, and it has at least one.
        """
        ...


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
        rates: tensor name -> `(K,)`, the rate of each step, or `(K, r, r)`, matrices on its rank axis (`rates`); a tensor without one does
            not adapt.
        query_weights: what the query losses at phi_0 to phi_K weigh in what is minimised, K + 1 of them; the last alone where None.
        support_weights: what the support losses before each of the K steps weigh in it; nothing where None.
        second_order: the weight in [0, 1] of the derivative of an inner gradient in where it was taken.
        hvp: how that derivative is computed; needed where it is wanted.
        inner_states: where the inner states wait until the loop is gone back.
    """

    rule: Rule
    steps: int
    rates: Tensors
    query_weights: tuple[float, ...] | None = None
    support_weights: tuple[float, ...] | None = None
    second_order: float = 1.0
    hvp: HVP | None = None
    inner_states: InnerStates = "keep"

    @property
    def weights(self) -> tuple[float, ...]:
        """The query losses' weights, spelled out.

        Raises:
            ValueError: they are not K + 1.
        """
        if self.query_weights is None:
            return (*(0.0,) * self.steps, 1.0)
        if len(self.query_weights) != self.steps + 1:
            raise ValueError(f"{len(self.query_weights)} query weights for {self.steps} inner steps; give {self.steps + 1}, step 0's first")
        return self.query_weights

    @property
    def path_weights(self) -> tuple[float, ...]:
        """The support losses' weights, spelled out.

        Raises:
            ValueError: they are not K.
        """
        if self.support_weights is None:
            return (0.0,) * self.steps
        if len(self.support_weights) != self.steps:
            raise ValueError(f"{len(self.support_weights)} support weights for {self.steps} inner steps; give one for each")
        return self.support_weights


@dataclass(frozen=True)
class MetaGradient:
    """The gradient of the mean over tasks of what the algorithm minimises; as small as the adapter.

    Args:
        theta: tensor name -> gradient, without task axis.
        log_rates: tensor name -> `(K,)`, in the logarithm of each step's rate, of a matrix's in that of a factor; empty where rates are
            not learned.
        metrics: means over tasks, for the log.
        matrix_rates: tensor name -> `(K, r, r)`, in the rates that are matrices themselves.
    """

    theta: dict[str, Tensor]
    log_rates: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    matrix_rates: dict[str, Tensor] = field(default_factory=dict)


class Algorithm(Protocol):
    """A meta-gradient of `losses` at `theta`."""

    def __call__(self, losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
        """The meta-gradient of one batch; `theta` has no task axis."""
        ...
