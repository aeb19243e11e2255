"""Episodes: which tasks and examples a training step or an evaluation draw sees, as pure functions of their arguments."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.tasks.codes import recoded
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


@dataclass(frozen=True)
class Redrawn:
    """What training draws anew for a task at each step, the same for its support and its query.

    Args:
        codes: the codes of a task under house rules, so that none of them can be learned by heart (Yin et al. 2020, "Meta-learning
            without memorization").
        wording: one of the instruction and its paraphrases.
    """

    codes: bool = False
    wording: bool = False


NOTHING_REDRAWN = Redrawn()
_OF_EVALUATION, _OF_CODES, _OF_WORDING, _OF_SHOTS = 0x65766131, 0x636F6465, 0x776F7264, 0x73686F74
"""What else is drawn by seed and step keeps these generators apart from that of a task's examples, and from each other."""


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
    redrawn: Redrawn = NOTHING_REDRAWN,
    wanted: int | None = None,
) -> Episode:
    """The tasks of one training step on one rank, drawn from `meta_train` by a sampler, without replacement over all ranks.

    Ranks take consecutive slices of one order that depends on (seed, step) alone, and a task's examples depend on
    (seed, step, task), so R ranks of T tasks see what one rank of R*T tasks would see, and a resumed run what an uninterrupted one does.
    Every task has `query` examples to be judged on beside its support; where other than so many are `wanted`, it gives these, or all
    that its support leaves. What is `redrawn` is drawn apart from the examples, which stay the same. That they fit whatever is drawn,
    `prepare_suite` has to be told of it as well.

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
    for task in chosen:
        require_examples(task, support + query)
    drawn = [_redrawn(task, redrawn, seed, step) for task in chosen]
    return tuple(_training_draw(task, seed, step, support, query if wanted is None else wanted, minibatches) for task in drawn)


def shots_at(sizes: Sequence[int], *, seed: int, step: int) -> int:
    """How many support examples all tasks of a training step have: one of some sizes, each as likely as any other.

    It depends on seed and step alone, and so is the same on all ranks.
    """
    return sizes[0] if len(sizes) == 1 else int(np.random.default_rng([_OF_SHOTS, seed, step]).choice(sizes))


def _redrawn(task: Task, redrawn: Redrawn, seed: int, step: int) -> Task:
    """The task as it is at a step; examples whose texts change are rendered when they are used."""
    place = [seed, step, stable_hash(task.name)]
    if redrawn.codes:
        task = recoded(task, np.random.default_rng([_OF_CODES, *place]))
    if redrawn.wording and task.paraphrases:
        wordings = task.instruction, *task.paraphrases
        chosen = np.random.default_rng([_OF_WORDING, *place]).integers(len(wordings))
        task = replace(task, instruction=wordings[chosen], paraphrases=())
    return task


def _training_draw(task: Task, seed: int, step: int, support: int, query: int, minibatches: int) -> Draw:
    """Query first, so that it is the same for every number of minibatches; each minibatch is a fresh draw from the rest."""
    query = min(query, len(task.examples) - support)
    rng = np.random.default_rng([seed, step, stable_hash(task.name)])
    order = rng.permutation(len(task.examples))
    rest = order[query:]
    batches = [rest[:support] if index == 0 else rng.permutation(rest)[:support] for index in range(minibatches)]
    return Draw(task, tuple(_take(task.examples, batch) for batch in batches), _take(task.examples, order[:query]))


def evaluation_draw(task: Task, *, draw: int, support: int, query: int, seed: int = 0) -> Draw:
    """Support drawn from the task's support pool; the query examples are the same in every draw, the head of the query pool.

    The task is as its suite has it: nothing of it is redrawn. Its generator shares nothing with training's.

    Raises:
        SuiteError: the support pool is smaller than `support`.
    """
    if len(task.support_pool) < support:
        raise SuiteError(
            f"task {task.name!r} has {len(task.support_pool)} examples in its support half, fewer than the {support} shots asked for"
        )
    rng = np.random.default_rng([_OF_EVALUATION, seed, draw, stable_hash(task.name)])
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
