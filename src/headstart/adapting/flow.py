"""The way of a batch of jobs: trials where something is to be chosen or cross-fitted, then the adapters themselves, then measuring."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.adapting.data import Job
from headstart.adapting.fit import Tick, fit
from headstart.adapting.settings import MOST_STEPS, Schedule, Settings
from headstart.adapting.store import Store
from headstart.adapting.trials import FOLDS, FRESH_RATES, Fitted, Fold, Trial, Way, cross_folds, fresh, shipped
from headstart.algorithms.inner import expand
from headstart.algorithms.types import Tensors
from headstart.passes import Passes
from headstart.scoring import Answer, Metrics
from headstart.tasks.episodes import Draw
from headstart.tasks.task import Example

SHARES = {"trials": 6, "finals": 2, "measuring": 2}
"""What the stages take of a batch's work, roughly; for progress alone."""


@dataclass(frozen=True)
class Side:
    """An adapter in a comparison: how the measured rows are answered.

    Args:
        name: what it is called.
        steps: after how many steps.
        answers: one a measured row.
        phi: tensor name -> `(F, ...)`, what answered them; a fold's adapter answers the rows that it did not train on.
    """

    name: str
    steps: int
    answers: tuple[Answer, ...]
    phi: Tensors = field(repr=False)

    @property
    def metrics(self) -> Metrics:
        """Means over the rows."""
        return Metrics.of(self.answers)


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Args:
        job: the job.
        phi: the adapter, without task axis; empty where it failed.
        steps: how many steps it took.
        losses: mean loss of each step's rows before the step.
        curves: way -> looked-at step -> loss of what was held out.
        folds: whose held-out rows were measured on; one of them, with the test rows, where nothing was cross-fitted.
        sides: before, after and, where compared, a fresh LoRA; empty where nothing was measured.
        cross_fitted: whether every measured row was answered by adapters that were fitted without it, and not by the one that is saved.
        chosen_on: whether the measured rows had a say in the number of steps, or in the rate of a fresh LoRA, which flatters.
        failed: why there is no adapter.
    """

    job: Job
    phi: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    steps: int = 0
    losses: tuple[float, ...] = ()
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    sides: tuple[Side, ...] = ()
    cross_fitted: bool = False
    chosen_on: bool = False
    failed: str | None = None

    @property
    def rows(self) -> tuple[Example, ...]:
        """The measured rows, in the order of the answers."""
        return tuple(row for fold in self.folds for row in fold.held)


def adapt_batch(
    jobs: Sequence[Job], meta: MetaAdapter, passes: Passes, settings: Settings, store: Store | None = None, tick: Tick = lambda *_: None
) -> list[Outcome]:
    """What comes of each job; one that diverges fails alone.

    Args:
        jobs: gone side by side.
        meta: where they start.
        passes: over the adapter's base.
        settings: how to adapt.
        store: where a long fit leaves how far it is.
        tick: told of progress.

    Raises:
        Stopped: the store was asked to stop.
    """
    courses = [_Course.of(job, meta, passes, settings) for job in jobs]
    trials = [trial for course in courses for trial in course.trials]
    stages = {
        "trials": bool(trials),
        "finals": not all(course.job.validation for course in courses),
        "measuring": settings.measure,
    }
    tried = fit(trials, passes, store, _part(tick, stages, "trials"))
    finals = [trial for course in courses for trial in course.finals(tried)]
    found = {**tried, **fit(finals, passes, store, _part(tick, stages, "finals"))}
    return _measured([course.end(found) for course in courses], meta, passes, _part(tick, stages, "measuring"))


def lanes(job: Job, settings: Settings) -> int:
    """How many adapters of a job are fitted side by side at most."""
    ways = 1 + len(FRESH_RATES) * settings.compare
    return ways * (FOLDS if _cross_fits(job, settings) else 1)


def _cross_fits(job: Job, settings: Settings) -> bool:
    """Whether a job's own rows choose or measure by cross-fitting; one row alone cannot."""
    wanted = settings.choosing or settings.compare or (settings.measure and not job.test)
    return wanted and not job.validation and len(job.rows) > 1


def _part(tick: Tick, stages: Mapping[str, bool], stage: str) -> Tick:
    """What tells of one stage, of those that there are."""
    weights = {name: SHARES[name] * there for name, there in stages.items()}
    whole, before = sum(weights.values()) or 1, sum(list(weights.values())[: list(weights).index(stage)])
    return lambda share, note: tick((before + weights[stage] * share) / whole, note)


@dataclass(frozen=True)
class _Course:
    """How one job goes through the stages.

    Args:
        job: the job.
        settings: how to adapt.
        head: the head start's way.
        rivals: fresh LoRAs to be tuned over; none where nothing is compared.
        folds: of the trials; none where nothing needs trying.
    """

    job: Job
    settings: Settings
    head: Way
    rivals: tuple[Way, ...]
    folds: tuple[Fold, ...]

    @classmethod
    def of(cls, job: Job, meta: MetaAdapter, passes: Passes, settings: Settings) -> "_Course":
        learner = passes.learner
        rivals = tuple(fresh(learner, rate, settings.seed) for rate in FRESH_RATES) if settings.compare else ()
        folds: tuple[Fold, ...] = ()
        if job.validation:
            folds = (Fold(job.rows, job.validation),)
        elif _cross_fits(job, settings):
            folds = cross_folds(job.rows, settings.seed)
        return cls(job, settings, shipped(meta, learner, settings), rivals, folds)

    @property
    def cross_fitted(self) -> bool:
        return bool(self.folds) and not self.job.validation

    @property
    def trials(self) -> list[Trial]:
        if not self.folds:
            return []
        rows = max(len(fold.train) for fold in self.folds)
        whole = self.settings.schedule(len(self.job.rows), self.head.trained)
        own = self.settings.schedule(rows, self.head.trained, whole.steps)
        # a fresh LoRA may take as many steps as it likes
        other = self.settings.schedule(rows, 0, max(whole.steps, MOST_STEPS))
        return [self._trial(self.head, own, self.settings.choosing), *(self._trial(way, other, True) for way in self.rivals)]

    def _trial(self, way: Way, schedule: Schedule, choosing: bool) -> Trial:
        looks, patience = schedule.looks(choosing), self.settings.patience
        return Trial(self._name(way), self.job.task, way, self.folds, schedule, schedule.steps, looks, choosing, patience)

    def finals(self, tried: Mapping[str, Fitted]) -> list[Trial]:
        """The adapters that are still to be fitted, to all rows: the job's own, and the best rival where it is measured on other rows."""
        if self.job.validation:
            return []
        ways = [self.head]
        if self.job.test and (rival := self._best(tried)):
            ways.append(rival)
        return [trial for way in ways if (trial := self._final(way, tried))]

    def _final(self, way: Way, tried: Mapping[str, Fitted]) -> Trial | None:
        schedule = self.settings.schedule(len(self.job.rows), way.trained)
        known = tried.get(self._name(way))
        if known and known.failed:
            return None
        # one row alone has nothing to choose by
        untried = way.trained if self.settings.choosing else schedule.steps
        longest = replace(schedule, steps=max(schedule.steps, MOST_STEPS)) if way is not self.head else schedule
        return Trial(f"{self._name(way)}, all rows", self.job.task, way, (Fold(self.job.rows),), longest, known.steps if known else untried)

    def _best(self, tried: Mapping[str, Fitted]) -> Way | None:
        """The rival of the lowest held-out loss."""
        sound = [way for way in self.rivals if self._name(way) in tried and not tried[self._name(way)].failed]
        return min(sound, key=lambda way: tried[self._name(way)].best, default=None)

    def _name(self, way: Way) -> str:
        return f"{self.job.name}: {way.name}"

    def end(self, found: Mapping[str, Fitted]) -> "_End":
        own = found.get(f"{self._name(self.head)}, all rows") or found[self._name(self.head)]
        looked = {way.name: found[self._name(way)].held for way in (self.head, *self.rivals) if self._name(way) in found}
        outcome = Outcome(
            self.job,
            {name: tensor[0] for name, tensor in own.kept.items()},
            own.steps,
            own.losses[: own.steps],
            {name: held for name, held in looked.items() if held},
            chosen_on=self._chosen_on(),
            failed=own.failed,
        )
        if own.failed or not self.settings.measure:
            return _End(outcome)
        if self.job.test:
            return _End(replace(outcome, folds=(Fold(self.job.rows, self.job.test),)), self._sides(found, ", all rows"))
        if self.cross_fitted:
            return _End(replace(outcome, folds=self.folds, cross_fitted=True), self._sides(found, ""))
        return _End(outcome)

    def _chosen_on(self) -> bool:
        """Whether what is measured on had a say before: in the number of steps, or in the rate of a fresh LoRA."""
        chose = self.settings.choosing or bool(self.rivals)
        return chose and ((self.cross_fitted and not self.job.test) or bool(set(self.job.validation) & set(self.job.test)))

    def _sides(self, found: Mapping[str, Fitted], suffix: str) -> dict[str, tuple[int, Tensors]]:
        """What answers the measured rows: name -> steps, and adapters of each fold."""
        ways = [self.head, *([rival] if (rival := self._best(found)) else [])]
        sides = {}
        for way in ways:
            fitted = found.get(f"{self._name(way)}{suffix}") or found[self._name(way)]
            if not fitted.failed:
                sides[way.name] = (fitted.steps, fitted.kept)
        return sides


@dataclass(frozen=True)
class _End:
    """An outcome before anything is measured, and what is to be measured."""

    outcome: Outcome
    sides: Mapping[str, tuple[int, Tensors]] = field(default_factory=dict)


def _measured(ends: Sequence[_End], meta: MetaAdapter, passes: Passes, tick: Tick) -> list[Outcome]:
    """All sides of all outcomes, answered together."""
    start = meta.initial(passes.learner)
    asked: list[tuple[int, str, int, Tensors]] = []
    for number, end in enumerate(ends):
        if end.sides:
            asked.append((number, "before", 0, expand(start, len(end.outcome.folds))))
            asked += [(number, name, steps, phi) for name, (steps, phi) in end.sides.items()]
    if not asked:
        return [end.outcome for end in ends]
    phi = {name: torch.cat([tensors[name] for *_, tensors in asked]) for name in start}
    draws = [Draw(ends[number].outcome.job.task, (), fold.held) for number, *_ in asked for fold in ends[number].outcome.folds]
    answers = iter(passes.answers(phi, draws, lambda share: tick(share, "measuring")))
    sides: dict[int, list[Side]] = {}
    for number, name, steps, tensors in asked:
        own = tuple(answer for _ in ends[number].outcome.folds for answer in next(answers))
        sides.setdefault(number, []).append(Side(name, steps, own, tensors))
    return [replace(end.outcome, sides=tuple(sides.get(number, ()))) for number, end in enumerate(ends)]
