"""Regimes: the tasks as they are, or under house rules that only the examples tell."""

from dataclasses import replace
from typing import Literal

import numpy as np

from headstart.tasks.episodes import stable_hash
from headstart.tasks.task import Task

Regime = Literal["instructed", "house_rules", "mixed"]

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
MOST_OF_ONE_SYLLABLE = 300


def under_regime(task: Task, regime: Regime, seed: int = 0) -> tuple[Task, ...]:
    """What becomes of a task under a regime.

    `instructed` leaves it as it is; `house_rules` withholds its instruction and renames the labels of a classification to codes that
    are drawn once for each task; `mixed` gives it both ways.
    """
    if regime == "instructed":
        return (task,)
    ruled = house_rules(task, seed)
    return (ruled,) if regime == "house_rules" else (task, replace(ruled, name=f"{task.name}@house_rules"))


def house_rules(task: Task, seed: int = 0) -> Task:
    """The task without its instruction and, for classification, with codes for labels."""
    codes = dict(zip(task.labels, _codes(task, seed), strict=True))
    examples = tuple(replace(example, output=codes.get(example.output, example.output), tokens=None) for example in task.examples)
    return replace(task, instruction="", examples=examples, labels=tuple(codes.values()))


def _codes(task: Task, seed: int) -> list[str]:
    """As many distinct made-up syllables as the task has labels, in no relation to the labels' order."""
    rng = np.random.default_rng([seed, stable_hash(task.name)])
    # a third of the syllables at most, so that new ones are soon found
    letters = (_CONSONANTS, _VOWELS, _CONSONANTS) * (1 if len(task.labels) <= MOST_OF_ONE_SYLLABLE else 2)
    codes = dict[str, None]()
    while len(codes) < len(task.labels):
        code = "".join(str(rng.choice(list(each))) for each in letters)
        if code not in task.labels:
            codes[code] = None
    return list(codes)
