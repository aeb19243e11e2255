"""How far a run is. A run is a sequence of legs: its phases, then perhaps the control; each goes on from a state."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from headstart.recipe import Phase
from headstart.training.outer import averages


@dataclass(frozen=True)
class Spent:
    """What one leg took.

    Args:
        algorithm: what it was a leg of.
        steps: outer steps.
        flops: counted operations, over all ranks.
        seconds: on the clock.
        tokens: that the base computed, over all ranks; 0 in what an earlier version wrote.
        loss: validation/loss_adapted of the state it left; None where that was no finite number.
        best_step: the leg's step whose state it left, where it was to leave its best and had one.
    """

    algorithm: str
    steps: int
    flops: int
    seconds: float
    tokens: int = 0
    loss: float | None = None
    best_step: int | None = None


def cost(spent: Sequence[Spent]) -> dict[str, float]:
    """Counted operations, tokens and seconds of several legs together."""
    return {
        "flops": sum(leg.flops for leg in spent),
        "tokens": sum(leg.tokens for leg in spent),
        "seconds": round(sum(leg.seconds for leg in spent), 1),
    }


@dataclass(frozen=True)
class State:
    """What training changes.

    Args:
        theta: the initialisation, without task axis.
        rates: learned rates, tensor name -> `(K,)` or `(K, r, r)`; empty until a phase learns them.
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

    @classmethod
    def of(cls, phases: Sequence[Phase], spent: Sequence[Spent]) -> "Leg":
        """The next of some phases, when what some of them took is known: what was spent past earlier budgets comes off its own."""
        phase = phases[len(spent)]
        if phase.flops is None:
            return cls(phase)
        over = sum(leg.flops - earlier.flops for earlier, leg in zip(phases, spent, strict=False) if earlier.flops is not None)
        return cls(phase, max(1, phase.flops - over))

    @property
    def units(self) -> int:
        """What its length is shown in: steps, or hundredths of its operations."""
        return self.phase.steps or 100


@dataclass(frozen=True)
class Best:
    """The best state of a leg so far.

    Args:
        state: as it was at that look.
        loss: its validation/loss_adapted.
    """

    state: State
    loss: float


@dataclass(frozen=True)
class Progress:
    """How far a leg is.

    Args:
        start: the state it began with.
        state: the state now, as the outer optimiser goes on from it; `averaged` is what is looked at and left.
        outer: the outer optimiser's own tensors, its averages among them; empty before the first step.
        flops: counted operations so far, over all ranks.
        seconds: how long it took so far.
        tokens: that the base computed so far, over all ranks.
        best: where the best state is kept, the best of the looks so far; None before the first with a finite loss.
        loss: validation/loss_adapted of the last look; a leg ends with one, so that no checkpoint needs it.
    """

    start: State
    state: State
    outer: Mapping[str, Tensor] = field(default_factory=dict)
    flops: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: Best | None = None
    loss: float | None = None

    @property
    def steps(self) -> int:
        """Outer steps of this leg so far."""
        return self.state.step - self.start.step

    @property
    def averaged(self) -> State:
        """The state that is looked at and left: averages where the outer optimiser keeps them, else the state as it is."""
        theta, rates = averages(self.outer)
        return replace(self.state, theta=theta or self.state.theta, rates=rates or self.state.rates)

    def after(
        self, theta: Mapping[str, Tensor], rates: Mapping[str, Tensor], outer: Mapping[str, Tensor], flops: int, tokens: int
    ) -> "Progress":
        """One step later; where `rates` is empty, none are learned and the earlier ones stay."""
        state = replace(self.state, theta=theta, rates=rates or self.state.rates, step=self.state.step + 1)
        return replace(self, state=state, outer=outer, flops=self.flops + flops, tokens=self.tokens + tokens)

    def looked(self, loss: float, keep_best: bool) -> "Progress":
        """With a look's validation/loss_adapted; its state is kept if it is the first or lower than all before."""
        if not math.isfinite(loss):
            return replace(self, loss=None)
        if not keep_best or (self.best is not None and loss >= self.best.loss):
            return replace(self, loss=loss)
        # copies, as the optimiser goes on writing into these tensors
        seen = self.averaged
        theta, rates = ({name: tensor.clone() for name, tensor in part.items()} for part in (seen.theta, seen.rates))
        return replace(self, loss=loss, best=Best(replace(seen, theta=theta, rates=rates), loss))

    def lasting(self, seconds: float) -> "Progress":
        """So many seconds later."""
        return replace(self, seconds=self.seconds + seconds)

    def share(self, leg: Leg) -> float:
        """How much of the leg is done; it is over at 1."""
        return self.flops / leg.flops if leg.flops else self.steps / (leg.phase.steps or math.inf)

    def spent(self, leg: Leg) -> Spent:
        """What the leg took so far."""
        taken = (leg.phase.algorithm, self.steps, self.flops, round(self.seconds, 1), self.tokens)
        if self.best is None:
            return Spent(*taken, loss=self.loss)
        return Spent(*taken, loss=self.best.loss, best_step=self.best.state.step - self.start.step)

    def end(self, leg: Leg) -> State:
        """The state that a finished leg leaves, its best if that was kept, with what it took; steps go on counting from the last."""
        left = self.best.state if self.best else self.averaged
        return replace(left, step=self.state.step, spent=(*self.state.spent, self.spent(leg)))


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
