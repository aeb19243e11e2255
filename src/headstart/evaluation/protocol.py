"""The protocol: adapt an arm to tasks under given draws, and record how it does; the same for every arm."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from headstart.algorithms.inner import moved
from headstart.algorithms.rates import rate_at
from headstart.algorithms.rules import Moments
from headstart.algorithms.types import Tensors
from headstart.evaluation.arms import Arm
from headstart.evaluation.design import Setting, horizon_of
from headstart.evaluation.drift import Drift
from headstart.evaluation.measuring import Measured, measure, prompted
from headstart.evaluation.records import Record
from headstart.passes import Passes
from headstart.tasks.episodes import Draw, Episode, evaluation_draw
from headstart.tasks.task import Task

FIRST_DRAW = 1
"""Training looks at validation tasks under draw 0, and may have chosen by it."""


@dataclass(frozen=True)
class Protocol:
    """What is measured, the same for every arm.

    Args:
        setting: regime and shots.
        query: query examples a task, of those that it has.
        steps: adaptation steps after which to measure, ascending.
        horizons: numbers of steps that rates are tuned for, ascending; empty where no step is taken.
        draws: support draws a task.
        seed: of the draws.
        drift_step: the step at which drift is measured too; None for none.
    """

    setting: Setting
    query: int
    steps: tuple[int, ...]
    horizons: tuple[int, ...]
    draws: int
    seed: int
    drift_step: int | None = None

    def episode(self, tasks: Sequence[Task], draw: int) -> Episode:
        """All tasks under one draw."""
        return tuple(
            evaluation_draw(task, draw=FIRST_DRAW + draw, support=self.setting.k, query=self.query, seed=self.seed) for task in tasks
        )

    def runs(self, chosen: Mapping[int, float]) -> dict[float, tuple[int, ...]]:
        """Candidate -> the steps that are read off its run, of an arm whose candidates were chosen by horizon; step 0 off the first's."""
        if not self.horizons:
            # nothing was tuned, and no step is taken
            return {1.0: self.steps}
        runs: dict[float, tuple[int, ...]] = {}
        for step in self.steps:
            candidate = chosen[horizon_of(step, self.horizons)]
            runs[candidate] = (*runs.get(candidate, ()), step)
        return runs


@dataclass(frozen=True)
class Bench:
    """What arms are run on.

    Args:
        passes: over the base with its sites.
        prompting: the same with room for prompts that hold the support examples.
        drift: measures drift; None where it is not.
        heed: called between steps; what it raises ends the piece, of which nothing is recorded.
    """

    passes: Passes
    prompting: Passes
    drift: Drift | None = None
    heed: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Gone:
    """What came of an arm on a piece.

    Args:
        records: of its tasks, at all steps.
        shown: task -> how many support examples fitted into its prompts; empty of arms that do not prompt.
    """

    records: list[Record]
    shown: dict[str, int]


def run_piece(arm: Arm, chosen: Mapping[int, float], draw: int, piece: Episode, protocol: Protocol, bench: Bench) -> Gone:
    """Adapt an arm to the tasks of a piece, and measure it.

    Args:
        arm: what is run.
        chosen: horizon -> its candidate; of no account for an arm that does not adapt.
        draw: the draw's number.
        piece: tasks under that draw, computed together.
        protocol: what is measured.
        bench: what it is run on.
    """
    shown: dict[str, int] = {}
    found = _adapted(arm, chosen, piece, protocol, bench) if arm.adapts else _constant(arm, piece, bench, shown)
    return Gone([_record(arm, protocol, draw, *each) for each in found], shown)


Found = tuple[Task, int, Measured, float | None]
"""A task, the step, what was measured, and the drift."""


def _adapted(arm: Arm, chosen: Mapping[int, float], piece: Episode, protocol: Protocol, bench: Bench) -> Iterator[Found]:
    for candidate, steps in protocol.runs(chosen).items():
        for step, phi in trajectory(arm, candidate, piece, bench, max(steps)):
            if step not in steps:
                continue
            drifts = _drifts(phi, step, len(piece), protocol, bench)
            for part, measured, drifted in zip(piece, measure(bench.passes, phi, piece), drifts, strict=True):
                yield part.task, step, measured, drifted


def _drifts(phi: Tensors, step: int, tasks: int, protocol: Protocol, bench: Bench) -> Sequence[float | None]:
    if bench.drift is None or step != protocol.drift_step:
        return [None] * tasks
    return bench.drift.of(phi)


def _constant(arm: Arm, piece: Episode, bench: Bench, shown: dict[str, int]) -> Iterator[Found]:
    passes, asked = bench.passes, list(piece)
    if arm.prompts:
        passes = bench.prompting
        fitted = [prompted(part, passes.batcher.renderer) for part in piece]
        asked = [part for part, _ in fitted]
        shown |= {part.task.name: count for part, count in fitted}
    for part, measured in zip(piece, measure(passes, arm.start(piece), asked), strict=True):
        yield part.task, 0, measured, None


def trajectory(arm: Arm, candidate: float, piece: Episode, bench: Bench, last: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The adapters of a piece's tasks before the first step and after each up to the last."""
    phi = arm.start(piece)
    yield 0, phi
    rates, memory = arm.rates_at(candidate), None
    supports = [replace(part, support=(), query=part.support[0]) for part in piece]
    for step in range(last):
        bench.heed()
        phi, memory = _step(arm, phi, memory, supports, bench.passes, {name: rate_at(rate, step) for name, rate in rates.items()})
        yield step + 1, phi


def _step(
    arm: Arm, phi: dict[str, Tensor], memory: Moments | None, supports: Sequence[Draw], passes: Passes, rates: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Moments | None]:
    _, found = passes.gradients(phi, supports, rates)
    direction, memory = arm.rule.direction(found, memory)
    return moved(phi, direction, rates), memory


def _record(arm: Arm, protocol: Protocol, draw: int, task: Task, step: int, measured: Measured, drifted: float | None) -> Record:
    setting = protocol.setting
    return Record(
        arm=arm.name,
        task=task.name,
        cluster=task.cluster,
        dataset=task.dataset,
        regime=setting.regime,
        k=setting.k,
        draw=draw,
        seed=arm.seed,
        step=step,
        **asdict(measured),
        drift=drifted,
    )
