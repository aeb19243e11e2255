"""How long an evaluation will take here: the passes that it needs, by what one of each takes on this machine."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headstart.algorithms.types import Tensors
from headstart.evaluation.measuring import measure
from headstart.evaluation.protocol import Protocol
from headstart.evaluation.report.view import count
from headstart.evaluation.tuning import ValidationTasks
from headstart.passes import Passes
from headstart.recipe import EvaluationSection
from headstart.tasks.episodes import Draw, Episode

WIDENED = 1
"""So many widenings of every grid are reckoned with."""


@dataclass(frozen=True)
class Pace:
    """Seconds of one task's passes, by what they are proportional to.

    Args:
        gradient: seconds a token of support rows, there and back.
        measuring: seconds a token of query rows, in which labels are ranked and answers written.
    """

    gradient: float
    measuring: float

    @classmethod
    def of(cls, passes: Passes, phi: Tensors, piece: Episode) -> "Pace":
        """Time a step and a measurement of one piece; each is done once before, as the first time is slower."""
        supports = [Draw(part.task, (), part.support[0]) for part in piece]
        gradient = _seconds(lambda: passes.gradients(phi, supports, list(phi)))
        measuring = _seconds(lambda: measure(passes, phi, piece))
        return cls(gradient / sum(map(support_tokens(passes), piece)), measuring / sum(map(query_tokens(passes), piece)))

    def adapting(self, part: Draw, steps: int, looks: int, passes: Passes) -> float:
        """Seconds to take so many steps on a task, and to measure so often."""
        return steps * self.gradient * support_tokens(passes)(part) + looks * self.measuring * query_tokens(passes)(part)


def _seconds(compute: Callable[[], object]) -> float:
    compute()
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


def support_tokens(passes: Passes) -> Callable[[Draw], int]:
    """Counts the tokens of a draw's support rows, the shared prefix once."""
    return lambda part: _tokens(passes, Draw(part.task, (), part.support[0]), ranked=False)


def query_tokens(passes: Passes) -> Callable[[Draw], int]:
    """Counts the tokens of a draw's query rows with all labels ranked."""
    return lambda part: _tokens(passes, part, ranked=True)


def _tokens(passes: Passes, draw: Draw, ranked: bool) -> int:
    sizes = passes.batcher.sizes(draw, ranked)
    return int(sizes.prefix + sum(sizes.examples))


@dataclass(frozen=True)
class Prediction:
    """Predicted seconds of one setting, of one arm under one seed.

    Args:
        tuning: an arm that adapts.
        measuring: an arm that adapts, all draws.
        constant: an arm that does not adapt, all draws.
    """

    tuning: float
    measuring: float
    constant: float

    @classmethod
    def of(
        cls,
        pace: Pace,
        validation: ValidationTasks,
        pieces: Mapping[int, Sequence[Episode]],
        protocol: Protocol,
        section: EvaluationSection,
        passes: Passes,
    ) -> "Prediction":
        """What a setting takes at a pace."""
        last, horizons = max(protocol.steps), protocol.horizons
        # where horizons choose different candidates each has a run of its own; half of that is reckoned with
        steps = max(last, *horizons) + sum(horizons[:-1]) // 2 if horizons else 0
        parts = [part for episodes in pieces.values() for piece in episodes for part in piece]
        tuned = protocol.episode(validation.tasks, 0) if horizons else ()
        return cls(
            candidates(section) * sum(pace.adapting(part, max(horizons), 1, passes) for part in tuned),
            sum(pace.adapting(part, steps, len(protocol.steps), passes) for part in parts),
            sum(pace.adapting(part, 0, 1, passes) for part in parts),
        )


def candidates(section: EvaluationSection) -> int:
    """How many candidates an arm's tuning is reckoned to try."""
    return len(section.learning_rates) + WIDENED


def in_hours(seconds: float) -> str:
    """Seconds as hours, or as minutes where they are few."""
    if seconds < 60:
        return "under a minute"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else count(round(seconds / 60), "minute")
