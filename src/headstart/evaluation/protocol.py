"""The protocol: tune every arm alike on validation tasks, then adapt it to held-out tasks and record how it does."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headstart.algorithms.inner import expand, walk
from headstart.batches import Batcher
from headstart.evaluation.arms import Arm
from headstart.evaluation.statistics import Record, macro_mean
from headstart.model.learner import Learner
from headstart.scoring import measure
from headstart.tasks.episodes import Draw, Episode, evaluation_draw
from headstart.tasks.task import Task

Tick = Callable[[str], None]
"""Called with a note whenever one arm has been run on one more task."""


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

    def episodes(self, tasks: Sequence[Task]) -> list[tuple[int, Draw]]:
        """Every (draw number, draw) of the tasks."""
        return [
            (draw, evaluation_draw(task, draw=draw, support=self.support, query=self.query, seed=self.seed))
            for task in tasks
            for draw in range(self.draws)
        ]


def tune(arm: Arm, tasks: Sequence[Task], protocol: Protocol, learner: Learner, batcher: Batcher, tick: Tick) -> dict[float, float]:
    """The loss at the last step of each candidate, as cluster macro-mean over validation tasks; one draw each.

    A winner at the edge of the grid widens it by one, so that no arm is held back by the grid it was given.
    """
    last = Protocol(protocol.support, protocol.query, (max(protocol.steps),), 1, protocol.seed)
    found: dict[float, float] = {}
    waiting = list(arm.candidates)
    while waiting:
        candidate = waiting.pop(0)
        records = list(run_arm(arm, candidate, tasks, last, learner, batcher, tick))
        found[candidate] = macro_mean(records, "loss")
        if not waiting and len(found) <= len(arm.candidates) + 1:
            waiting = _beyond(found)
    return found


def _beyond(found: Mapping[float, float]) -> list[float]:
    """The next candidate past a winner at the grid's edge, at the grid's own spacing."""
    grid, best = sorted(found), min(found, key=found.__getitem__)
    if len(grid) < 2 or best not in (grid[0], grid[-1]):
        return []
    neighbour = grid[1] if best == grid[0] else grid[-2]
    return [best * best / neighbour]


def run_arm(
    arm: Arm, candidate: float, tasks: Sequence[Task], protocol: Protocol, learner: Learner, batcher: Batcher, tick: Tick
) -> Iterator[Record]:
    """Adapt an arm to every task and draw, and record its metrics at the protocol's steps."""
    numbered = protocol.episodes(tasks)
    numbers = {id(draw): number for number, draw in numbered}
    for piece in batcher.pieces(tuple(draw for _, draw in numbered)):
        for step, phi in adapt_piece(arm, arm.rates_at(candidate), piece, max(protocol.steps), learner, batcher):
            if step in protocol.steps:
                yield from _records(arm.name, phi, piece, numbers, step, protocol, learner, batcher)
        for draw in piece:
            tick(f"{arm.name}: {draw.task.name}")


def adapt_piece(
    arm: Arm, rates: Mapping[str, Tensor], piece: Episode, steps: int, learner: Learner, batcher: Batcher
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """The adapters of a piece's tasks before the first step and after each."""
    phi: Mapping[str, Tensor] = expand(arm.theta, len(piece))
    yield 0, phi
    batch = batcher.batch(piece)
    for number, step in enumerate(walk(learner.losses, phi, batch.support, arm.rule, rates, steps), start=1):
        yield number, step.phi


def _records(
    arm: str, phi: Mapping[str, Tensor], piece: Episode, numbers: Mapping[int, int], step: int, protocol: Protocol, learner: Learner, batcher: Batcher
) -> Iterator[Record]:
    for draw, metrics in zip(piece, measure(learner, phi, piece, batcher), strict=True):
        task = draw.task
        yield Record(
            arm=arm,
            task=task.name,
            cluster=task.cluster,
            dataset=task.dataset,
            draw=numbers[id(draw)],
            seed=0,
            k=protocol.support,
            step=step,
            loss=metrics.loss,
            accuracy=metrics.accuracy,
        )
