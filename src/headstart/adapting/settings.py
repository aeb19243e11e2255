"""How long to adapt, in which batches, at which rates: what a user may say, and what follows from it for a number of rows."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from headstart.errors import HeadstartError

BATCH_SIZE = 32
FEW = 64
"""Of fewer rows than this, none is spared for choosing the number of steps: they choose it by cross-fitting."""
MOST_STEPS = 64
"""`auto` takes at least so many steps into view,"""
MOST_EPOCHS = 3
"""and so many times through the rows where those are more."""
PATIENCE = 3
"""`auto` stops after so many looks without an improvement."""
LOOKS = 10
"""How often a run of a given length looks at its held-out loss, beside the start."""


class AdaptError(HeadstartError):
    """Adapting cannot start or go on; the message says why, and how to mend it."""


@dataclass(frozen=True)
class Settings:
    """How to adapt.

    Args:
        steps: how many steps; `auto` chooses by held-out loss, which is also what happens where neither `steps` nor `epochs` is given.
        epochs: how many times through the rows, instead of `steps`; the rate then falls linearly to zero.
        batch_size: examples a step; computed in as many micro-batches as memory asks for, which does not change the step.
        learning_rate: AdamW's rate, beyond the steps that the shipped rule was trained for; falls linearly to zero. Where None, the
            last of the shipped rates go on.
        early_stopping: stop after so many looks at the held-out loss without an improvement, and keep the best.
        compare: adapt a fresh LoRA beside it, its rate and number of steps tuned.
        measure: measure before and after.
        seed: of the order of minibatches, the folds, the rows that are held back, and the fresh LoRA.

    Raises:
        AdaptError: a value is out of range, or two exclude each other.
    """

    steps: int | Literal["auto"] | None = None
    epochs: int | None = None
    batch_size: int = BATCH_SIZE
    learning_rate: float | None = None
    early_stopping: int | None = None
    compare: bool = False
    measure: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise AdaptError("steps and epochs both say how long to adapt; give one of them")
        if isinstance(self.steps, str) and self.steps != "auto":
            raise AdaptError(f"steps is {self.steps!r}; give a whole number, or auto")
        _require_least("steps", self.steps if isinstance(self.steps, int) else None, 0)
        for name, least in {"epochs": 1, "batch_size": 1, "early_stopping": 1, "seed": 0}.items():
            _require_least(name, getattr(self, name), least)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise AdaptError(f"learning_rate is {self.learning_rate}; give a number above 0, such as 5e-4")
        if self.compare and not self.measure:
            raise AdaptError("a comparison measures; leave out --no-measure (in Python, measure=False)")

    @property
    def automatic(self) -> bool:
        """Whether the number of steps is left to us."""
        return self.steps == "auto" or (self.steps is None and self.epochs is None)

    @property
    def choosing(self) -> bool:
        """Whether held-out loss decides after which step to keep the adapter."""
        return self.automatic or self.early_stopping is not None

    @property
    def patience(self) -> int:
        """Looks without an improvement after which it stops, where it chooses."""
        return self.early_stopping or PATIENCE

    def schedule(self, rows: int, trained: int, most: int | None = None) -> "Schedule":
        """The schedule of so many rows.

        Args:
            rows: how many there are to train on.
            trained: steps that the shipped rule was trained for, whose rates are taken as they are.
            most: the number of steps, whatever the settings say.
        """
        batches = -(-rows // self.batch_size)
        if most is None:
            if self.automatic:
                most = max(MOST_STEPS, MOST_EPOCHS * batches)
            else:
                most = self.steps if isinstance(self.steps, int) else (self.epochs or 0) * batches
        falling = self.epochs is not None or self.learning_rate is not None
        return Schedule(most, batches, trained if falling else None, self.seed)


def whole_or_auto(text: str | None) -> int | Literal["auto"] | None:
    """A number of steps from a command line.

    Raises:
        AdaptError: neither a whole number nor `auto`.
    """
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    if not text.lstrip("-").isdigit():
        raise AdaptError(f"steps is {text!r}; give a whole number, or auto")
    return int(text)


def _require_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise AdaptError(f"{name} is {value}; give {least} or more")


@dataclass(frozen=True)
class Schedule:
    """Which rows a step takes, and how far the rate has fallen; pure functions of the step.

    Args:
        steps: how many there are, or may be.
        batches: minibatches in one time through the rows.
        full_until: the rate falls linearly from here on, to zero after the last step; it never falls where None.
        seed: of the order of the rows.
    """

    steps: int
    batches: int
    full_until: int | None
    seed: int

    def minibatch(self, step: int, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The numbers of the rows of a step: all in order while they fit in one batch, else a slice of this epoch's shuffle."""
        if self.batches == 1:
            return np.arange(rows)
        epoch, batch = divmod(step, self.batches)
        return np.array_split(_order(self.seed, epoch, rows), self.batches)[batch]

    def factor(self, step: int) -> float:
        """What the rate of a step is multiplied with, from 1 to 0."""
        if self.full_until is None or step < self.full_until:
            return 1.0
        return max(0.0, (self.steps - step) / (self.steps - self.full_until))

    def looks(self, choosing: bool) -> tuple[int, ...]:
        """The steps at which held-out loss is looked at; the first and the last are among them.

        Where it chooses among numbers of steps, they grow by about two fifths, so that the best number is never far from one.
        """
        if not choosing:
            return tuple(sorted({round(self.steps * look / LOOKS) for look in range(LOOKS + 1)}))
        found, step = [0], 1
        while step < self.steps:
            found.append(step)
            step = max(step + 1, round(step * 1.4))
        return tuple(dict.fromkeys([*found, self.steps]))


@lru_cache(maxsize=256)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng([0x61646170, seed, epoch]).permutation(rows)
