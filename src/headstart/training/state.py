"""How far a run is. A run is a sequence of legs: its phases, then perhaps the control; each goes on from a state."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from headstart.recipe import Phase


@dataclass(frozen=True)
class Spent:
    """What one leg took: outer steps, counted operations over all ranks, seconds."""

    algorithm: str
    steps: int
    flops: int
    seconds: float


@dataclass(frozen=True)
class State:
    """What training changes.

    Args:
        theta: the initialisation, without task axis.
        rates: learned rates, tensor name -> `(K,)`; empty until a phase learns them.
        step: outer steps done, over all phases; each draws an episode of its own.
        spent: the phases done.
    """

    theta: Mapping[str, Tensor]
    rates: Mapping[str, Tensor]
    step: int = 0
    spent: tuple[Spent, ...] = ()


@dataclass(frozen=True)
class Leg:
    """A stretch of a run with an outer optimiser of its own.

    Args:
        phase: what is done at each step.
        flops: counted operations after which it ends; where None it ends after its phase's steps.
    """

    phase: Phase
    flops: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a leg is.

    Args:
        start: the state it began with.
        state: the state now.
        outer: the outer optimiser's own tensors; empty before the first step.
        flops: counted operations so far, over all ranks.
        seconds: how long it took so far.
    """

    start: State
    state: State
    outer: Mapping[str, Tensor] = field(default_factory=dict)
    flops: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Outer steps of this leg so far."""
        return self.state.step - self.start.step

    def after(self, theta: Mapping[str, Tensor], rates: Mapping[str, Tensor], outer: Mapping[str, Tensor], flops: int) -> "Progress":
        """One step later; where `rates` is empty, none are learned and the earlier ones stay."""
        state = replace(self.state, theta=theta, rates=rates or self.state.rates, step=self.state.step + 1)
        return replace(self, state=state, outer=outer, flops=self.flops + flops)

    def lasting(self, seconds: float) -> "Progress":
        """So many seconds later."""
        return replace(self, seconds=self.seconds + seconds)

    def share(self, leg: Leg) -> float:
        """How much of the leg is done; it is over at 1."""
        return self.flops / leg.flops if leg.flops else self.steps / leg.phase.steps

    def end(self, leg: Leg) -> State:
        """The state that a finished leg leaves, with what it took."""
        spent = Spent(leg.phase.algorithm, self.steps, self.flops, round(self.seconds, 1))
        return replace(self.state, spent=(*self.state.spent, spent))


@dataclass(frozen=True)
class Position:
    """How far a run is, and all that it needs to go on.

    Args:
        leg: the leg's number: a phase's, or one past the phases for the control, and one past the last leg at the end.
        progress: how far the leg is.
        before: outer steps of the whole run before this leg.
        finished: what the phases ended with, once they have.
    """

    leg: int
    progress: Progress
    before: int = 0
    finished: State | None = None

    @property
    def steps(self) -> int:
        """Outer steps of the whole run, the control's among them."""
        return self.before + self.progress.steps

    def then(self, state: State, finished: State | None = None) -> "Position":
        """The beginning of the next leg, which starts from `state`."""
        return Position(self.leg + 1, Progress(state, state), self.steps, finished or self.finished)
