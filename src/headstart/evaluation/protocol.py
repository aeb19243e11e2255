"""The protocol: tune every arm alike on validation tasks, then adapt it to held-out tasks and record how it does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from headstart.algorithms.inner import expand, walk
from headstart.batches import Batcher
from headstart.evaluation.arms import Arm
from headstart.evaluation.statistics import Record, macro_mean
from headstart.model.learner import Learner
from headstart.scoring import measure
from headstart.tasks.episodes import Episode, evaluation_draw
from headstart.tasks.task import Task

Tick = Callable[[float, str], None]
"""Called with work done, in the unit of `Protocol.cost`, and a note."""


@dataclass(frozen=True)
class Protocol:
    """What is measured, the same for every arm.

    Args:
        support: K, the shots.
        query: query examples a task.
        steps: adaptation steps after which to score.
        draws: support draws a task.
        seed: of the draws.
    """

    support: int
    query: int
    steps: tuple[int, ...]
    draws: int
    seed: int

    @property
    def tuning(self) -> "Protocol":
        """The same with one draw, scored after the last step only."""
        return replace(self, steps=(max(self.steps),), draws=1)

    @property
    def cost(self) -> int:
        """Work on one task: examples in forward passes, a forward and backward pass counted as three."""
        return self.draws * (3 * self.support * max(self.steps) + self.query * len(self.steps))

    def episodes(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Episode]]:
        """Each draw's number, and all tasks under that draw."""
        for draw in range(self.draws):
            yield draw, tuple(evaluation_draw(task, draw=draw, support=self.support, query=self.query, seed=self.seed) for task in tasks)


@dataclass(frozen=True)
class Bench:
    """What arms are run on: a learner, its batcher, the protocol, and whom to tell of progress."""

    learner: Learner
    batcher: Batcher
    protocol: Protocol
    tick: Tick


def tune(arm: Arm, tasks: Sequence[Task], bench: Bench) -> dict[float, float]:
    """The loss at the last step of each candidate, as cluster macro-mean over validation tasks; one draw each.

    A winner at the edge of the grid widens it, at most twice, so that no arm is held back by the grid it was given.
    """
    bench = replace(bench, protocol=bench.protocol.tuning)
    found: dict[float, float] = {}
    waiting = list(arm.candidates)
    while waiting:
        candidate = waiting.pop(0)
        found[candidate] = macro_mean(run_arm(arm, candidate, tasks, bench), "loss")
        if not waiting and len(found) < len(arm.candidates) + 2:
            waiting = _beyond(found)
    return found


def _beyond(found: Mapping[float, float]) -> list[float]:
    """The next candidate past a winner at the grid's edge, at the grid's own spacing."""
    grid, best = sorted(found), min(found, key=found.__getitem__)
    if len(grid) < 2 or best not in (grid[0], grid[-1]):
        return []
    neighbour = grid[1] if best == grid[0] else grid[-2]
    return [best * best / neighbour]


def run_arm(arm: Arm, candidate: float, tasks: Sequence[Task], bench: Bench) -> Iterator[Record]:
    """Adapt an arm to every task and draw, and record its metrics at the protocol's steps."""
    for draw, episode in bench.protocol.episodes(tasks):
        for piece in bench.batcher.pieces(episode):
            for step, phi in trajectory(arm, candidate, piece, bench):
                if step in bench.protocol.steps:
                    yield from _records(arm.name, phi, piece, draw, step, bench)
            bench.tick(len(piece) * bench.protocol.cost / bench.protocol.draws, arm.name)


def trajectory(arm: Arm, candidate: float, piece: Episode, bench: Bench) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """The adapters of a piece's tasks before the first step and after each."""
    start = expand(arm.theta, len(piece))
    yield 0, start
    support = bench.batcher.batch(piece).support
    steps = walk(bench.learner.losses, start, support, arm.rule, arm.rates_at(candidate), max(bench.protocol.steps))
    for number, step in enumerate(steps, start=1):
        yield number, step.phi


def _records(arm: str, phi: Mapping[str, Tensor], piece: Episode, draw: int, step: int, bench: Bench) -> Iterator[Record]:
    for part, metrics in zip(piece, measure(bench.learner, phi, piece, bench.batcher), strict=True):
        task = part.task
        yield Record(
            arm=arm,
            task=task.name,
            cluster=task.cluster,
            dataset=task.dataset,
            draw=draw,
            seed=bench.protocol.seed,
            k=bench.protocol.support,
            step=step,
            loss=metrics.loss,
            accuracy=metrics.accuracy,
        )
