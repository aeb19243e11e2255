"""Records of one regime and one K as arrays, and the columns of them that every metric is a function of.

Shape suffixes as in `statistics`, and T measured steps.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from headstart.evaluation.records import BINS, Record
from headstart.evaluation.statistics import UNBOUNDED, BoolArray, FloatArray, Row, some

SCALARS = ("loss", "accuracy", "invalid", "drift")
SHARE, POSITIVE = (0.0, 1.0), (0.0, math.inf)

Pair: TypeAlias = tuple[str, str]
Fold: TypeAlias = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """One arm's measurements at its steps, ascending, by name: shape (T, R, S), `gaps` (T, R, S, BINS); NaN where not measured."""

    steps: tuple[int, ...]
    values: Mapping[str, FloatArray]

    def at(self, measurement: str, step: int) -> FloatArray:
        """A measurement at a step; at any of them if the arm does not adapt."""
        return np.asarray(self.values[measurement][0 if self.constant else self.steps.index(step)])

    @property
    def constant(self) -> bool:
        """Whether the arm does not adapt."""
        return self.steps == (0,)


@dataclass(frozen=True, slots=True)
class Table:
    """All records of a setting: its regime and K, the rows and training seeds, sorted, and each arm's trajectories as they appear."""

    setting: tuple[str, int]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, Trajectories]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Table:
        """Tabulate records; raises `ValueError` as `summarise` does."""
        settings = sorted({(record.regime, record.k) for record in records})
        if len(settings) != 1:
            raise ValueError(f"records of one regime and K are wanted, not of {some(settings) or 'none'}")
        rows = tuple(sorted({_row(record) for record in records}))
        seeds = tuple(sorted({record.seed for record in records}))
        by_arm: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            by_arm[record.arm].append(record)
        return cls(settings[0], rows, seeds, {arm: _trajectories(own, rows, seeds) for arm, own in by_arm.items()})

    def shared_steps(self, pair: Pair) -> list[int]:
        """The steps at which both arms of a pair can be told, ascending."""
        adapting = [set(self.arms[arm].steps) for arm in pair if not self.arms[arm].constant]
        return sorted(set.intersection(*adapting)) if adapting else [0]


def _row(record: Record) -> Row:
    return record.cluster, record.dataset, record.task, record.draw


def _trajectories(records: Sequence[Record], rows: Sequence[Row], seeds: Sequence[int]) -> Trajectories:
    steps = tuple(sorted({record.step for record in records}))
    of_step, of_row, of_seed = ({key: index for index, key in enumerate(keys)} for keys in (steps, rows, seeds))
    places = [(of_step[record.step], of_row[_row(record)], of_seed[record.seed]) for record in records]
    _require_complete(records, places, (len(steps), len(rows), len(seeds)))
    where = tuple(np.array(places).T)
    values = {name: _filled([getattr(record, name) for record in records], where) for name in SCALARS}
    return Trajectories(steps, {**values, "gaps": _filled([record.gaps or (None,) * BINS for record in records], where)})


def _filled(measured: Sequence[Any], where: tuple[Any, ...]) -> FloatArray:
    """The measurements, each in its place."""
    given = np.array(measured, dtype=np.float64)
    values = np.empty((*(int(axis.max()) + 1 for axis in where), *given.shape[1:]))
    values[where] = given
    return values


def _require_complete(records: Sequence[Record], places: Sequence[tuple[int, int, int]], shape: tuple[int, int, int]) -> None:
    """Raise `ValueError` unless an arm's records are one for each place."""
    place, times = Counter(places).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} records of one task, draw, seed and step, such as {records[places.index(place)]}")
    if len(places) < math.prod(shape):
        raise ValueError(
            f"arm {records[0].arm!r} lacks {math.prod(shape) - len(places)} of {math.prod(shape)} records: "
            "every arm needs one for each task and draw, under every training seed, at each of its steps"
        )
    for record in records:
        if not (math.isfinite(record.loss) and math.isfinite(record.accuracy) and math.isfinite(record.invalid)):
            raise ValueError(f"a record is not finite: {record}")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of measurements that come to one number.

    Args:
        values: shape (R, S, M), NaN where not measured.
        limits: the least and the most that the number can be.
        fold: makes it, (W,), of the columns' means, (W, M).
    """

    values: FloatArray
    limits: tuple[float, float]
    fold: Fold = lambda means: means[:, 0]

    @property
    def rows(self) -> BoolArray:
        """The rows that were measured."""
        return np.asarray(np.isfinite(self.values).all((1, 2)))


def _without_signs(means: FloatArray) -> FloatArray:
    return np.asarray(np.abs(means).sum(1))


def columns_at(trajectories: Trajectories, step: int) -> dict[str, Columns]:
    """Every metric of an arm at a step."""
    loss, accuracy, invalid, drift = (trajectories.at(measurement, step)[..., None] for measurement in SCALARS)
    found = {
        "loss": Columns(loss, POSITIVE),
        "accuracy": Columns(accuracy, SHARE),
        "invalid": Columns(invalid, SHARE),
        "ece": Columns(trajectories.at("gaps", step), SHARE, _without_signs),
        "drift": Columns(drift, (-1.0, math.inf)),
    }
    if step > 0 and 0 in trajectories.steps and not trajectories.constant:
        gain = trajectories.at("loss", 0)[..., None] - loss
        found |= {"gain": Columns(gain, UNBOUNDED), "improved": Columns((gain > 0).astype(np.float64), SHARE)}
    return {metric: columns for metric, columns in found.items() if columns.rows.any()}
