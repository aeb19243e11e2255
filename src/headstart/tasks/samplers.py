"""Samplers: how likely each training task is to be drawn, and every step's order of tasks, as pure functions of (seed, step)."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headstart.tasks.task import Task, TaskSuite

Sampler = Literal["uniform", "cluster", "size"]
ALPHA = 0.5


def step_order(suite: TaskSuite, *, seed: int, step: int, sampler: Sampler = "cluster", alpha: float = ALPHA) -> list[Task]:
    """All tasks of `meta_train` in the order in which a step draws them, without replacement.

    Each is drawn by its weight among those that are left, by perturbing logarithms of weights with Gumbel noise (Efraimidis and
    Spirakis 2006; Kool et al. 2019).
    """
    tasks = suite.split("meta_train")
    weights = task_weights(suite, tasks, sampler, alpha)
    keys = np.log(weights) + np.random.default_rng([seed, step]).gumbel(size=len(tasks))
    return [tasks[int(index)] for index in np.argsort(-keys, kind="stable")]


def task_weights(suite: TaskSuite, tasks: Sequence[Task], sampler: Sampler = "cluster", alpha: float = ALPHA) -> NDArray[np.float64]:
    """The probability of each task to be the first that a step draws, `(tasks,)`.

    Args:
        suite: knows the tasks' sources and how often these are drawn from, whatever the number of their tasks.
        tasks: the tasks drawn from.
        sampler: within a source, `uniform` weighs every task alike; `cluster` every cluster alike, and the tasks within it; `size`
            a task by its number of examples to the power of `alpha`, which is 0 for alike and 1 for in proportion.
        alpha: of `size`.
    """
    origins = np.array([suite.origin(task.name) for task in tasks])
    weights = np.empty(len(tasks))
    for origin in set(origins.tolist()):
        mine = origins == origin
        within = np.array(_weights([task for task, is_mine in zip(tasks, mine, strict=True) if is_mine], sampler, alpha))
        weights[mine] = suite.shares.get(origin, 1.0) * within / within.sum()
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _weights(tasks: Sequence[Task], sampler: Sampler, alpha: float) -> list[float]:
    """The weights of one source's tasks among each other."""
    if sampler == "uniform":
        return [1.0] * len(tasks)
    if sampler == "size":
        return [float(len(task.examples)) ** alpha for task in tasks]
    sizes = Counter(task.cluster for task in tasks)
    return [1 / sizes[task.cluster] for task in tasks]
