"""Regimes: the tasks as they are, or under house rules that only the examples tell."""

from dataclasses import replace
from typing import Literal

import numpy as np

from headstart.tasks.episodes import stable_hash
from headstart.tasks.task import Example, Task, TaskSuite

Regime = Literal["instructed", "house_rules", "mixed"]

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def apply_regime(suite: TaskSuite, regime: Regime, seed: int = 0) -> TaskSuite:
    """The suite under a regime.

    `instructed` leaves it as it is; `house_rules` withholds every instruction and renames the labels of classification
    tasks to codes that are drawn once for each task; `mixed` holds every task both ways, in the same split.
    """
    if regime == "instructed":
        return suite
    ruled = {name: house_rules(task, seed) for name, task in suite.tasks.items()}
    if regime == "house_rules":
        return replace(suite, tasks=ruled)
    renamed = {f"{name}@house_rules": replace(task, name=f"{name}@house_rules") for name, task in ruled.items()}
    splits = {split: tuple(each for name in names for each in (name, f"{name}@house_rules")) for split, names in suite.splits.items()}
    return replace(suite, tasks={**suite.tasks, **renamed}, splits=splits)


def house_rules(task: Task, seed: int = 0) -> Task:
    """The task without its instruction and, for classification, with codes for labels."""
    codes = dict(zip(task.labels, _codes(task, seed), strict=True))
    examples = tuple(Example(example.input, codes.get(example.output, example.output)) for example in task.examples)
    return replace(task, instruction="", examples=examples, labels=tuple(codes.values()))


def _codes(task: Task, seed: int) -> list[str]:
    """As many distinct made-up syllables as the task has labels, in no relation to the labels' order."""
    rng = np.random.default_rng([seed, stable_hash(task.name)])
    codes: list[str] = []
    while len(codes) < len(task.labels):
        code = "".join(str(rng.choice(list(letters))) for letters in (_CONSONANTS, _VOWELS, _CONSONANTS))
        if code not in codes:
            codes.append(code)
    return codes
