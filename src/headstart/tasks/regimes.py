"""Regimes: the tasks as they are, or under house rules that only the examples tell."""

from dataclasses import replace
from typing import Literal

import numpy as np

from headstart.tasks.codes import draw_codes
from headstart.tasks.episodes import stable_hash
from headstart.tasks.task import Task

Regime = Literal["instructed", "house_rules", "mixed"]
Codes = Literal["task", "episode"]
"""How long house rules' codes stay: drawn once for each task, or by training anew for every step."""


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
    labels = draw_codes(task.labels, np.random.default_rng([seed, stable_hash(task.name)]))
    codes = dict(zip(task.labels, labels, strict=True))
    examples = tuple(replace(example, output=codes.get(example.output, example.output), tokens=None) for example in task.examples)
    return replace(task, instruction="", paraphrases=(), examples=examples, labels=labels, original_labels=task.labels)
