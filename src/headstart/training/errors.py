"""What goes wrong with a run as a whole."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from headstart.training.state import Spent


class RunError(HeadstartError):
    """A run cannot start or go on; the message says why, and how to mend it."""


class DivergedError(FloatingPointError):
    """Training diverged; the message says what to lower.

    Args:
        spent: what the run took until then, leg by leg.
    """

    def __init__(self, message: str, spent: "Sequence[Spent]" = ()) -> None:
        super().__init__(message)
        self.spent = tuple(spent)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop and did so after a step, with a checkpoint to go on from.

    Args:
        step: how many outer steps the run has taken.
        folder: its output folder.
        is_main: whether this is the rank that prints.
    """

    def __init__(self, step: int, folder: object, is_main: bool = True) -> None:
        super().__init__(f"stopped after step {step}; go on with meta_train(recipe, resume=True), run.output_dir being {folder}")
        self.step = step
        self.is_main = is_main
