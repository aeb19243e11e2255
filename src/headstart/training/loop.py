"""The outer loop, on one screen."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from headstart.adapter.meta_adapter import Adaptation
from headstart.algorithms import ALGORITHMS
from headstart.algorithms.types import InnerLoop, MetaGradient
from headstart.batches import Batcher
from headstart.model.learner import Learner
from headstart.progress import Meter
from headstart.recipe import InnerSection, Phase, Recipe
from headstart.tasks.episodes import Episode, training_episode
from headstart.tasks.task import TaskSuite
from headstart.training.outer import OuterOptimizer
from headstart.training.runtime import Runtime
from headstart.training.validation import Validation


@dataclass(frozen=True)
class Spent:
    """What one phase took: outer steps, counted operations, seconds."""

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
class Trainer:
    """What a phase needs and does not change."""

    recipe: Recipe
    suite: TaskSuite
    learner: Learner
    batcher: Batcher
    runtime: Runtime
    validate: Validation
    log: Callable[[dict[str, float | str], int], None]
    save: Callable[[State], None]

    def run(self, phase: Phase, state: State, meter: Meter, flops: int | None = None) -> State:
        """Run a phase with an optimiser of its own, for its number of steps or until it has spent `flops` operations."""
        rates = starting_rates(phase.loop, state)
        outer = OuterOptimizer(state.theta, rates if phase.loop.learn_rates else {}, self.recipe.outer)
        before, begun, done = self.learner.flops, state.step, 0.0
        if state.step == 0:
            self.log({"phase": phase.algorithm, **self.validate(self.learner, outer.theta, state.rates)}, 0)
        while done < 1:
            started = time.monotonic()
            gradient = self.runtime.reduce(self.meta_gradient(phase, outer, rates, state.step))
            scalars = outer.step(gradient, state.step - begun, done)
            state = replace(state, theta=outer.theta, rates=outer.rates or state.rates, step=state.step + 1)
            done = (self.learner.flops - before) / flops if flops else (state.step - begun) / phase.steps
            if (state.step - begun) % self.recipe.run.eval_steps == 0 or done >= 1:
                scalars |= self.validate(self.learner, outer.theta, state.rates)
            self.log({"phase": phase.algorithm, **gradient.metrics, **scalars, "seconds": time.monotonic() - started}, state.step)
            meter.advance(done, f"loss {gradient.metrics['loss']:.3f}")
            if (state.step - begun) % self.recipe.run.save_steps == 0:
                self.save(state)
        return state

    def meta_gradient(self, phase: Phase, outer: OuterOptimizer, rates: Mapping[str, Tensor], step: int) -> MetaGradient:
        """This rank's mean over its tasks, computed a piece at a time: tasks are independent, so any pieces give the same."""
        loop = InnerLoop(adaptation(phase.loop).build(), phase.loop.steps, outer.rates or rates)
        episode = self.episode(phase, step)
        total: MetaGradient | None = None
        for piece in self.batcher.pieces(episode):
            gradient = ALGORITHMS[phase.algorithm](self.learner.losses, outer.theta, self.batcher.batch(piece), loop)
            total = add(total, gradient, len(piece) / len(episode))
        assert total is not None
        return total

    def episode(self, phase: Phase, step: int) -> Episode:
        """This rank's tasks and examples at a step."""
        suite = self.recipe.suite
        return training_episode(
            self.suite,
            seed=self.recipe.seed,
            step=step,
            rank=self.runtime.rank,
            tasks=suite.tasks_per_step,
            support=suite.support,
            query=suite.query,
            minibatches=phase.minibatches,
        )


def starting_rates(loop: InnerSection, state: State) -> dict[str, Tensor]:
    """The rates that a phase starts from: those learned so far if they fit its steps and sites, else the recipe's constant one."""
    constant = adaptation(loop).constant_rates(state.theta)
    fitting = state.rates.keys() == constant.keys() and all(len(rate) == loop.steps for rate in state.rates.values())
    return dict(state.rates) if fitting else {name: rate.repeat(loop.steps) for name, rate in constant.items()}


def adaptation(loop: InnerSection) -> Adaptation:
    """How a recipe's inner loop adapts, as the artefact records it."""
    return Adaptation(loop.rule, loop.steps, loop.learning_rate, loop.max_norm, loop.target_modules)


def add(total: MetaGradient | None, gradient: MetaGradient, share: float) -> MetaGradient:
    """The running weighted sum of the pieces' gradients and metrics."""
    if total is None:
        total = MetaGradient({}, {}, {})
    return replace(
        total,
        theta={name: total.theta.get(name, 0) + share * tensor for name, tensor in gradient.theta.items()},
        log_rates={name: total.log_rates.get(name, 0) + share * tensor for name, tensor in gradient.log_rates.items()},
        metrics={name: total.metrics.get(name, 0.0) + share * value for name, value in gradient.metrics.items()},
    )
