"""Episodes: which tasks and examples a training step or an evaluation draw sees, as pure functions of their arguments."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.tasks.samplers import ALPHA, Sampler, step_order
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite


@dataclass(frozen=True)
class Draw:
    """One task's part in an episode.

    Args:
        task: the task.
        support: minibatches of support examples, one for each inner step; a single one is used at every step.
        query: examples that the adapted model is judged on, none of them in `support`.
    """

    task: Task
    support: tuple[tuple[Example, ...], ...]
    query: tuple[Example, ...]


Episode = tuple[Draw, ...]
"""The T tasks of one step on one rank."""


def training_episode(
    suite: TaskSuite,
    *,
    seed: int,
    step: int,
    rank: int = 0,
    tasks: int = 4,
    support: int = 16,
    query: int = 16,
    minibatches: int = 1,
    sampler: Sampler = "cluster",
    alpha: float = ALPHA,
) -> Episode:
    """The tasks of one training step on one rank, drawn from `meta_train` by a sampler, without replacement over all ranks.

    Ranks take consecutive slices of one order that depends on (seed, step) alone, and a task's examples depend on
    (seed, step, task), so R ranks of T tasks see what one rank of R*T tasks would see, and a resumed run what an uninterrupted one does.

    Raises:
        SuiteError: `meta_train` has fewer tasks than the slice needs.
    """
    pool = suite.split("meta_train")
    if len(pool) < (rank + 1) * tasks:
        raise SuiteError(
            f"suite {suite.name} has {len(pool)} training tasks, but rank {rank} needs {tasks} of its own; lower suite.tasks_per_step"
        )
    order = step_order(suite, seed=seed, step=step, sampler=sampler, alpha=alpha)
    chosen = order[rank * tasks : (rank + 1) * tasks]
    return tuple(_training_draw(task, seed, step, support, query, minibatches) for task in chosen)


def _training_draw(task: Task, seed: int, step: int, support: int, query: int, minibatches: int) -> Draw:
    """Query first, so that it is the same for every number of minibatches; each minibatch is a fresh draw from the rest."""
    require_examples(task, support + query)
    rng = np.random.default_rng([seed, step, stable_hash(task.name)])
    order = rng.permutation(len(task.examples))
    rest = order[query:]
    batches = [rest[:support] if index == 0 else rng.permutation(rest)[:support] for index in range(minibatches)]
    return Draw(task, tuple(_take(task.examples, batch) for batch in batches), _take(task.examples, order[:query]))


def evaluation_draw(task: Task, *, draw: int, support: int, query: int, seed: int = 0) -> Draw:
    """Support drawn from the task's support pool; the query examples are the same in every draw, the head of the query pool.

    Its generator shares nothing with training's.

    Raises:
        SuiteError: the support pool is smaller than `support`.
    """
    if len(task.support_pool) < support:
        raise SuiteError(
            f"task {task.name!r} has {len(task.support_pool)} examples in its support half, fewer than the {support} shots asked for"
        )
    rng = np.random.default_rng([0x65766131, seed, draw, stable_hash(task.name)])
    chosen = rng.permutation(len(task.support_pool))[:support]
    return Draw(task, (_take(task.support_pool, chosen),), tuple(task.query_pool[:query]))


def require_examples(task: Task, needed: int) -> None:
    """Raise a `SuiteError` if the task has fewer examples than an episode takes."""
    if len(task.examples) < needed:
        raise SuiteError(
            f"task {task.name!r} has {len(task.examples)} examples, but an episode takes {needed} (support + query); "
            "lower suite.support or suite.query, or drop the task"
        )


def stable_hash(text: str) -> int:
    """A hash that is the same in every process and on every machine."""
    return zlib.crc32(text.encode())


def _take(examples: Sequence[Example], chosen: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Example, ...]:
    return tuple(examples[int(index)] for index in chosen)
