"""The outer loop, on one screen."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from torch import Tensor

from headstart.adapter.meta_adapter import Adaptation
from headstart.algorithms import ALGORITHMS
from headstart.algorithms.rates import as_matrices, is_matrix
from headstart.algorithms.rules import RoughRuleError
from headstart.algorithms.types import MetaGradient
from headstart.batches import Batcher, padding_share
from headstart.interrupt import Interrupt
from headstart.model.learner import Learner
from headstart.progress import Meter
from headstart.recipe import FomamlPhase, InnerSection, MamlPhase, Phase, Recipe
from headstart.tasks.episodes import Episode, shots_at, training_episode
from headstart.tasks.samplers import step_order
from headstart.tasks.task import TaskSuite
from headstart.training.errors import DivergedError, RunError
from headstart.training.inner import inner_loop
from headstart.training.outer import OuterOptimizer
from headstart.training.runtime import Runtime
from headstart.training.state import Leg, Progress, State
from headstart.training.validation import Validation


@dataclass(frozen=True)
class Trainer:
    """What a leg needs and does not change."""

    recipe: Recipe
    suite: TaskSuite
    learner: Learner
    batcher: Batcher
    runtime: Runtime
    validate: Validation
    log: Callable[[dict[str, float | str], int], None]
    save: Callable[[Progress], None]
    interrupt: Interrupt

    def run(self, leg: Leg, progress: Progress, meter: Meter) -> Progress:
        """Go on with a leg until it is over or all ranks agree to stop; only the progress last made is good for going on.

        Raises:
            DivergedError: a meta-gradient is not finite.
        """
        phase, rates = leg.phase, starting_rates(leg.phase.loop, progress.state)
        learned, section = rates if phase.loop.learn_rates else {}, self.recipe.outer.of(phase)
        outer = OuterOptimizer(progress.state.theta, learned, section, rates_alone(phase), progress.start.theta)
        outer.restore(progress.outer)
        if progress.state.step == 0:
            self.log({"phase": phase.algorithm, **self.validate(self.learner, outer.theta, progress.state.rates)}, 0)
        done, stop = progress.share(leg), False
        while done < 1 and not stop:
            started, counted = time.monotonic(), (self.learner.flops, self.learner.tokens)
            gradient = self.runtime.reduce(self.meta_gradient(phase, outer, rates, progress.state.step, done))
            flops, tokens = self.runtime.totals(self.learner.flops - counted[0], self.learner.tokens - counted[1])
            with diverging(leg, replace(progress, flops=progress.flops + flops, tokens=progress.tokens + tokens)):
                scalars = outer.step(gradient, progress.steps, done)
            progress = progress.after(outer.theta, outer.rates, outer.state(), flops, tokens)
            done = progress.share(leg)
            if progress.steps % self.recipe.run.eval_steps == 0 or done >= 1:
                seen = progress.averaged
                scalars |= (look := self.validate(self.learner, seen.theta, seen.rates))
                progress = self.looked(progress, look)
            progress = progress.lasting(seconds := time.monotonic() - started)
            drawn = ", ".join(self.drawn(progress.state.step - 1))
            taken: dict[str, float | str] = {"flops": flops, "tokens": tokens, "seconds": seconds, "tasks": drawn}
            self.log({"phase": phase.algorithm, **gradient.metrics, **scalars, **taken}, progress.state.step)
            # the step that spends the last of the operations may spend more
            meter.advance(min(done, 1.0), f"loss {gradient.metrics['loss']:.3f}")
            stop = self.runtime.total(int(self.interrupt.asked)) > 0
            if progress.steps % self.recipe.run.save_steps == 0 and done < 1 and not stop:
                self.save(progress)
        self.interrupt.agreed = stop
        return progress

    def looked(self, progress: Progress, look: Mapping[str, float]) -> Progress:
        """The progress after a look; where the best state is kept, all ranks go by the first's loss, or they might keep different ones."""
        keep, loss = self.recipe.run.load_best_model_at_end, look["validation/loss_adapted"]
        return progress.looked(self.runtime.of_first([loss])[0] if keep else loss, keep)

    def meta_gradient(self, phase: Phase, outer: OuterOptimizer, rates: Mapping[str, Tensor], step: int, done: float) -> MetaGradient:
        """This rank's mean over its tasks, computed a piece at a time: tasks are independent, so any pieces give the same.

        `done` is the share of the phase that is done, by which its weights go.

        Raises:
            RunError: the inner rule has no usable derivative where the phase is.
        """
        rule, seed = adaptation(phase.loop).build(), self.recipe.seed
        loop = inner_loop(phase, rule, outer.rates or rates, done, self.learner, seed, step)
        episode = self.episode(phase, step)
        total: MetaGradient | None = None
        for piece in self.batcher.pieces(episode):
            batch = self.batcher.batch(piece)
            try:
                gradient = ALGORITHMS[phase.algorithm](self.learner.losses, outer.theta, batch, loop)
            except RoughRuleError as error:
                raise RunError(f"{phase.algorithm} phase, inner.eps_root {phase.loop.eps_root:g}: {error}") from error
            gradient = replace(gradient, metrics={**gradient.metrics, "padding_share": padding_share(batch)})
            total = add(total, gradient, len(piece) / len(episode))
        assert total is not None
        # what ranks send each other is as small as what is learned
        return replace(total, theta={}) if rates_alone(phase) else total

    def drawn(self, step: int) -> list[str]:
        """The tasks that all ranks together see at a step."""
        suite = self.recipe.suite
        order = step_order(self.suite, seed=self.recipe.seed, step=step, sampler=suite.sampler, alpha=suite.sampler_alpha)
        return [task.name for task in order[: suite.tasks_per_step * self.runtime.ranks]]

    def episode(self, phase: Phase, step: int) -> Episode:
        """This rank's tasks and examples at a step."""
        return episode_of(self.recipe, self.suite, phase, step, self.runtime.rank)


@contextmanager
def diverging(leg: Leg, progress: Progress) -> Iterator[None]:
    """Say of a gradient that is not finite what the run took until then, by `DivergedError`."""
    try:
        yield
    except FloatingPointError as error:
        raise DivergedError(str(error), progress.end(leg).spent) from error


def episode_of(recipe: Recipe, suite: TaskSuite, phase: Phase, step: int, rank: int = 0) -> Episode:
    """A rank's tasks and examples at a step of a phase, as the recipe wants them."""
    section = recipe.suite
    return training_episode(
        suite,
        seed=recipe.seed,
        step=step,
        rank=rank,
        tasks=section.tasks_per_step,
        support=shots_at(section.shots, seed=recipe.seed, step=step),
        query=section.query,
        minibatches=phase.minibatches,
        sampler=section.sampler,
        alpha=section.sampler_alpha,
        redrawn=section.redrawn,
        wanted=phase.query,
    )


def starting_rates(loop: InnerSection, state: State) -> dict[str, Tensor]:
    """The rates that a phase starts from: those learned so far if they fit its steps and sites, else the recipe's constant one.

    Where it learns preconditioners, numbers become matrices, each times the identity; matrices fit no other phase.
    """
    constant = adaptation(loop).constant_rates(state.theta)
    fitting = state.rates.keys() == constant.keys() and all(
        len(rate) == loop.steps and (loop.precondition or not is_matrix(rate)) for rate in state.rates.values()
    )
    rates = dict(state.rates) if fitting else {name: rate.repeat(loop.steps) for name, rate in constant.items()}
    return {name: as_matrices(name, rate, state.theta[name]) for name, rate in rates.items()} if loop.precondition else rates


def rates_alone(phase: Phase) -> bool:
    """Whether a phase leaves the initialisation as it is."""
    return isinstance(phase, FomamlPhase | MamlPhase) and phase.learn == "rates"


def adaptation(loop: InnerSection) -> Adaptation:
    """How a recipe's inner loop adapts, as the artefact records it."""
    return Adaptation(**{each.name: getattr(loop, each.name) for each in fields(Adaptation)})


def add(total: MetaGradient | None, gradient: MetaGradient, share: float) -> MetaGradient:
    """The running weighted sum of the pieces' gradients and metrics."""
    if total is None:
        total = MetaGradient({}, {}, {})
    return replace(
        total,
        theta={name: total.theta.get(name, 0) + share * tensor for name, tensor in gradient.theta.items()},
        log_rates={name: total.log_rates.get(name, 0) + share * tensor for name, tensor in gradient.log_rates.items()},
        metrics={name: total.metrics.get(name, 0.0) + share * value for name, value in gradient.metrics.items()},
        matrix_rates={name: total.matrix_rates.get(name, 0) + share * tensor for name, tensor in gradient.matrix_rates.items()},
    )
