"""Trials: ways of adapting to a task that are gone side by side, each on one or more folds of its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.adapting.settings import Schedule, Settings
from headstart.algorithms.rates import followed_by
from headstart.algorithms.rules import Adam, Rule
from headstart.algorithms.types import Tensors
from headstart.model.learner import Learner
from headstart.tasks.task import Example, Task

FOLDS = 4
ADAMW_RATE = 5e-4
"""AdamW's rate beyond the shipped rule in epochs, where neither the user nor the rule names one."""
HEAD_START = "head start"
FRESH_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
"""What a fresh LoRA's rate is tuned over."""


@dataclass(frozen=True)
class Fold:
    """Rows to train on, and rows held out."""

    train: tuple[Example, ...]
    held: tuple[Example, ...] = ()


@dataclass(frozen=True, eq=False)
class Way:
    """Where adapting starts and how it goes.

    Args:
        name: what it is called in what is printed.
        start: tensor name -> the initialisation, without task axis.
        rates: tensor name -> `(K,)` or `(K, r, r)`; the last goes on. A tensor without one stays as it is.
        trained: how many steps the first rule takes.
        first: the rule of these steps.
        after: the rule beyond them.
    """

    name: str
    start: Tensors
    rates: Tensors
    trained: int
    first: Rule
    after: Rule

    def rule(self, step: int) -> Rule:
        """The rule of a step."""
        return self.first if step < self.trained else self.after

    @property
    def kind(self) -> tuple[object, ...]:
        """What ways must have in common to be gone side by side."""
        # one rate a task for each tensor: all are numbers, or all matrices
        rates = tuple((name, rate.dim()) for name, rate in self.rates.items())
        return self.first, self.after, self.trained if self.first != self.after else 0, rates


def shipped(meta: MetaAdapter, learner: Learner, settings: Settings) -> Way:
    """The meta-adapter's own rule and rates; beyond the steps it was trained for AdamW, if the settings name its rate, else the same on.

    AdamW without weight decay, which would draw the adapter away from where it starts: Adam's rule, whose moments go on.
    """
    start, rates, rule, trained = meta.initial(learner), meta.schedule(learner), meta.adaptation.build(), meta.adaptation.steps
    beyond = settings.learning_rate
    if beyond is None and settings.epochs is not None and not isinstance(rule, Adam):
        # rates of another rule say nothing of AdamW's
        beyond = ADAMW_RATE
    if beyond is None:
        return Way(HEAD_START, start, rates, trained, rule, rule)
    own = {name: rate[torch.arange(trained, device=rate.device).clamp(max=len(rate) - 1)] for name, rate in rates.items()}
    return Way(HEAD_START, start, {name: followed_by(rate, beyond) for name, rate in own.items()}, trained, rule, Adam())


def fresh(learner: Learner, rate: float, seed: int) -> Way:
    """A fresh LoRA under AdamW."""
    start = learner.fresh_adapter(seed)
    rates = {name: torch.full((1,), rate, device=tensor.device) for name, tensor in start.items()}
    return Way(f"fresh LoRA, rate {rate:g}", start, rates, 0, Adam(), Adam())


@dataclass(frozen=True, eq=False)
class Trial:
    """A way on a task; its folds are adapted on separately, side by side.

    Args:
        name: unique among the trials of one fit.
        task: whose instruction and labels count; its rows are in the folds.
        way: where it starts and how it goes.
        folds: what is trained on, and what is held out.
        schedule: its steps and minibatches.
        stop: how many steps it takes at most; where the schedule is longer, its rates do not know.
        looks: steps at which the loss of what is held out is looked at.
        choosing: whether the adapters are kept where that loss is lowest, instead of after the last step.
        patience: looks without an improvement after which it stops, where it chooses.
    """

    name: str
    task: Task
    way: Way
    folds: tuple[Fold, ...]
    schedule: Schedule
    stop: int
    looks: tuple[int, ...] = ()
    choosing: bool = False
    patience: int = 0


@dataclass(frozen=True)
class Fitted:
    """How far a trial has come, and at last what came of it.

    Args:
        kept: tensor name -> `(F, ...)`, one adapter a fold, after `steps` steps.
        steps: the number of steps after which they were kept.
        losses: mean loss of a step's rows before each step taken.
        held: looked-at step -> mean loss of what is held out.
        failed: why there is no adapter.
    """

    kept: Mapping[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    losses: tuple[float, ...] = ()
    held: Mapping[int, float] = field(default_factory=dict)
    failed: str | None = None

    @property
    def best(self) -> float:
        """The lowest loss of what is held out."""
        return min(self.held.values())

    def stale(self) -> int:
        """How many looks there were since the lowest loss."""
        lowest = min(self.held, key=self.held.__getitem__)
        return sum(step > lowest for step in self.held)

    def stepped(self, losses: Tensor) -> "Fitted":
        """With the losses of the folds' rows before a step."""
        return replace(self, losses=(*self.losses, fmean(losses.tolist())))


def cross_folds(rows: Sequence[Example], seed: int, count: int = FOLDS) -> tuple[Fold, ...]:
    """Folds that hold every row out once; as even as can be over the outputs, so that no fold trains without one of few labels.

    Args:
        rows: at least two.
        seed: shuffles them.
        count: how many folds; as many as rows where those are fewer.
    """
    # the turns of a conversation stay together
    first = {row.conversation: row.output for row in reversed(rows)}
    conversations = list(dict.fromkeys(row.conversation for row in rows))
    order = np.random.default_rng([0x666F6C64, seed]).permutation(len(conversations))
    # dealt out in turn with like outputs together: each fold gets its share of every output
    dealt = sorted((conversations[int(index)] for index in order), key=lambda conversation: first[conversation])
    count = min(count, len(conversations))
    number = {conversation: place % count for place, conversation in enumerate(dealt)}
    return tuple(
        Fold(
            tuple(row for row in rows if number[row.conversation] != fold),
            tuple(row for row in rows if number[row.conversation] == fold),
        )
        for fold in range(count)
    )
