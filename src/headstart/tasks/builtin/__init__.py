"""The builtin suite: small tasks in many clusters, drawn from this project's own facts and rules, with nothing to download."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping

from headstart.tasks.builtin import (
    arithmetic,
    code,
    dates,
    labelling,
    language,
    lists,
    morphology,
    numbers,
    spelling,
    texts,
    units,
    words,
    world,
)
from headstart.tasks.builtin.registry import Spec, build
from headstart.tasks.task import Task, TaskSuite

__all__ = ["builtin_suite"]

# The draw of held-out clusters is part of what the suite is; it does not change with the seed of the examples.
SPLIT_SEED = 0
HELD_OUT = {"meta_test": 7, "meta_validation": 4}

_FAMILIES = (arithmetic, code, dates, labelling, language, lists, morphology, numbers, spelling, texts, units, words, world)
_SPECS: tuple[Spec, ...] = tuple(spec for family in _FAMILIES for cluster in family.CLUSTERS for spec in cluster.specs)


def builtin_suite(seed: int = 0) -> TaskSuite:
    """Draw the examples of every builtin task.

    Args:
        seed: of the examples only; tasks, clusters and splits stay the same.
    """
    return _suite(_SPECS, seed)


def _suite(specs: Iterable[Spec], seed: int) -> TaskSuite:
    tasks = {spec.name: build(spec, seed) for spec in sorted(specs, key=lambda spec: spec.name)}
    splits = _splits(tasks)
    return TaskSuite("builtin", tasks, splits, _revision(tasks, splits))


def _splits(tasks: Mapping[str, Task]) -> dict[str, tuple[str, ...]]:
    split_of = _split_of_cluster({task.cluster for task in tasks.values()})
    return {
        split: tuple(name for name in sorted(tasks) if split_of[tasks[name].cluster] == split)
        for split in ("meta_train", "meta_validation", "meta_test")
    }


def _split_of_cluster(clusters: Iterable[str]) -> dict[str, str]:
    """Which split every cluster falls to: by a draw from the sorted names, whatever the tasks are."""
    names = sorted(clusters)
    random.Random(SPLIT_SEED).shuffle(names)
    held_out = [split for split, count in HELD_OUT.items() for _ in range(count)]
    return dict(zip(names, held_out + ["meta_train"] * (len(names) - len(held_out)), strict=True))


def _revision(tasks: Mapping[str, Task], splits: Mapping[str, tuple[str, ...]]) -> str:
    """A short digest of all that a run depends on."""
    content = [
        [task.name, task.instruction, task.cluster, task.labels, task.dataset, [(row.input, row.output) for row in task.examples]]
        for task in tasks.values()
    ]
    return hashlib.sha256(json.dumps([content, splits]).encode()).hexdigest()[:12]
