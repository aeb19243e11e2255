"""Tuning: every arm's rates for every horizon, on tasks of `meta_validation`; nothing here can hold a task of another split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart.evaluation.arms import Arm
from headstart.evaluation.design import VALIDATION, Setting
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.measuring import bounded
from headstart.evaluation.protocol import Bench, Protocol, trajectory
from headstart.evaluation.statistics import Row, macro_weights
from headstart.tasks.episodes import Episode
from headstart.tasks.prepare import spread
from headstart.tasks.task import Task, TaskSuite

WIDENINGS = 2
"""So many candidates more at either end of a grid, where a winner lies at its edge."""

Grid = dict[int, dict[float, float]]
"""Horizon -> candidate -> validation loss at that step, as cluster macro-mean."""
Told = Callable[[Episode, int], None]
"""Called with each piece that was gone through, and how many steps."""


@dataclass(frozen=True)
class ValidationTasks:
    """Tasks that tuning may see. There is one way to make them, and it takes them from `meta_validation`."""

    tasks: tuple[Task, ...] = field(init=False)

    def __init__(self, suite: TaskSuite, count: int, setting: Setting) -> None:
        enough = [task for task in suite.split(VALIDATION) if len(task.support_pool) >= setting.k]
        object.__setattr__(self, "tasks", spread(enough, count))
        if not self.tasks:
            raise EvaluationError(
                f"no task of {VALIDATION} has {setting.k} support examples to tune rates on; leave this number of shots out with --shots"
            )

    @property
    def names(self) -> list[str]:
        """The tasks' names."""
        return [task.name for task in self.tasks]


def tune(arms: Sequence[Arm], validation: ValidationTasks, protocol: Protocol, bench: Bench, told: Told = lambda *_: None) -> Grid:
    """The loss of every candidate at every horizon, over the arm's training seeds; one draw each.

    A winner at the edge of a horizon's grid widens the grid there at its own spacing, at most `WIDENINGS` times at either end, so that
    no arm is held back by the grid that it was given.

    Args:
        arms: one arm, under each training seed.
        validation: the tasks.
        protocol: what will be measured.
        bench: what arms are run on.
        told: of progress.
    """
    episode = protocol.episode(validation.tasks, 0)
    grid: Grid = {horizon: {} for horizon in protocol.horizons}
    waiting = dict.fromkeys(arms[0].candidates, protocol.horizons)
    widened = {"low": 0, "high": 0}
    while waiting:
        for candidate, horizons in waiting.items():
            for horizon, loss in _losses(arms, candidate, horizons, episode, bench, told).items():
                grid[horizon][candidate] = loss
        waiting = _wider(grid, widened)
    return grid


def _wider(grid: Grid, widened: dict[str, int]) -> dict[float, tuple[int, ...]]:
    """The candidates past the grid's ends that a horizon's winner asks for, each with the horizons whose grids end there."""
    waiting: dict[float, tuple[int, ...]] = {}
    for end in widened:
        asking: dict[float, tuple[int, ...]] = {}
        for horizon, found in grid.items():
            beyond = _beyond(found, end)
            if beyond is not None:
                asking[beyond] = (*asking.get(beyond, ()), horizon)
        if asking and widened[end] < WIDENINGS:
            widened[end] += 1
            waiting |= asking
    return waiting


def _beyond(found: Mapping[float, float], end: str) -> float | None:
    """The next candidate past the winner, if it lies at this end of the grid."""
    ordered = sorted(found, reverse=end == "high")
    if len(ordered) < 2 or best(found) != ordered[0]:
        return None
    return ordered[0] ** 2 / ordered[1]


def best(found: Mapping[float, float]) -> float:
    """The candidate of the lowest validation loss; of equal ones the lowest."""
    return min(sorted(found), key=found.__getitem__)


def choose(grid: Grid) -> dict[int, float]:
    """Horizon -> its best candidate."""
    return {horizon: best(found) for horizon, found in grid.items()}


def _losses(arms: Sequence[Arm], candidate: float, horizons: Sequence[int], episode: Episode, bench: Bench, told: Told) -> dict[int, float]:
    """Horizon -> the macro-mean loss at that step, of one candidate."""
    found: dict[int, dict[Row, float]] = {horizon: {} for horizon in horizons}
    for arm in arms:
        for piece in bench.passes.batcher.pieces(episode):
            for step, phi in trajectory(arm, candidate, piece, bench, max(horizons)):
                if step in found:
                    for part, losses in zip(piece, bench.passes.losses(phi, piece), strict=True):
                        # seeds stand where draws do, of which there is one
                        row = (part.task.cluster, part.task.dataset, part.task.name, arm.seed)
                        found[step][row] = bounded(float(losses.mean()))
            told(piece, max(horizons))
    return {horizon: float(macro_weights(list(losses)) @ np.array(list(losses.values()))) for horizon, losses in found.items()}
