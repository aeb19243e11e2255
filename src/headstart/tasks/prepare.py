"""Making a suite fit a run: opening it, leaving out what is too long, and choosing a few tasks evenly."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from headstart.tasks.regimes import Regime, apply_regime
from headstart.tasks.render import Renderer
from headstart.tasks.sources import open_suite
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite


def prepare_suite(source: str, regime: Regime, renderer: Renderer, needed: int, seed: int = 0) -> tuple[TaskSuite, list[str]]:
    """Open a suite, put it under its regime, and leave out what is too long; notes say what was left out.

    Raises:
        SuiteError: as `open_suite` and `leave_out_long`.
    """
    return leave_out_long(apply_regime(open_suite(source), regime, seed), renderer, needed)


def leave_out_long(suite: TaskSuite, renderer: Renderer, needed: int) -> tuple[TaskSuite, list[str]]:
    """The suite without examples over the renderer's limit and without tasks left with fewer than `needed` examples.

    Returns the suite and one line for each task that lost something.

    Raises:
        SuiteError: a split is left without tasks.
    """
    tasks, notes = {}, []
    for name, task in suite.tasks.items():
        kept = fitting(task, renderer)
        if len(kept) < len(task.examples):
            gone = len(task.examples) - len(kept)
            notes.append(f"{name}: {gone} of {len(task.examples)} examples over {renderer.max_length} tokens left out")
        if len(kept) >= needed:
            tasks[name] = task if len(kept) == len(task.examples) else replace(task, examples=tuple(kept))
        else:
            notes.append(f"{name}: left out, its {len(kept)} examples are fewer than the {needed} that an episode takes")
    splits = {split: tuple(name for name in names if name in tasks) for split, names in suite.splits.items()}
    empty = [split for split, names in splits.items() if not names]
    if empty:
        raise SuiteError(
            f"suite {suite.name}: no task of {empty[0]!r} is left; lower suite.support and suite.query or raise suite.max_length"
        )
    return replace(suite, tasks=tasks, splits=splits), notes


def fitting(task: Task, renderer: Renderer) -> list[Example]:
    """The examples that fit, whichever of the task's labels answers them: ranking renders every label."""
    if not task.labels:
        return renderer.fitting(task.instruction, task.examples)
    answers = [Example(task.examples[0].input, label) for label in task.labels]
    longest = max(answers, key=lambda answer: renderer.tokens(task.instruction, answer)).output
    fitting = renderer.fitting(task.instruction, [Example(example.input, longest) for example in task.examples])
    inputs = {example.input for example in fitting}
    return [example for example in task.examples if example.input in inputs]


def spread(tasks: Sequence[Task], count: int | None) -> tuple[Task, ...]:
    """At most `count` tasks, taken from the clusters in turn, the order within each kept."""
    clusters: dict[str, list[Task]] = {}
    for task in tasks:
        clusters.setdefault(task.cluster, []).append(task)
    turns = chain.from_iterable(zip_longest(*clusters.values()))
    return tuple(task for task in turns if task is not None)[:count]
