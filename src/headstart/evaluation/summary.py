"""What the records of one regime and one K come to: means with intervals by arm, pair, step and metric, curves, and what they hinge on.

Every number is a function of weighted means of columns (an expected calibration error is the sum of ten of them without their signs),
so one set of resampled weights serves all. Shape suffixes as in `statistics`, and T measured steps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from headstart.evaluation.records import Record
from headstart.evaluation.statistics import BoolArray, Design, FloatArray, Interval, make_design
from headstart.evaluation.table import POSITIVE, SHARE, Columns, Pair, Table, Trajectories, columns_at

SENSITIVE = ("loss", "accuracy")
"""What is told again with some tasks left out."""
TARGET_STEP = 50
MULTITASK, MULTITASK_STEP = "multitask", 20
"""The arm whose steps are to be replaced by fewer, and how many."""
ENOUGH_TO_LEAVE_ONE_OUT = 3
LEVEL_SLACK = 1e-9
"""By which rounded weights may miss a half."""

Facts: TypeAlias = Mapping[str, Mapping[str, Any]]
Metrics: TypeAlias = dict[str, dict[str, float]]
Target: TypeAlias = dict[str, Any]
"""`losses` to reach, by task, and the `arm` and `step` that they are taken from."""


def summarise(
    records: Sequence[Record],
    pairs: Sequence[Pair],
    primary_step: int,
    target_arm: str = "random",
    tasks: Facts | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """One entry of a results document's `settings`.

    - A pair `first-second` is first minus second on the same tasks, draws and seeds; an arm with step 0 alone stands at every step of the
      other. Metrics that were not measured at a step are absent, as are calibration errors without label-ranking tasks.
    - `auc_loss` and `auc_accuracy` are areas under the curve over log2(1 + step) by trapezoids, over the range's length: a mean loss.
      Arms with one step have none, and pairs measured at different steps.
    - `target` is each task's loss of `target_arm`, the mean over draws and seeds, at its lowest measured step. `steps_to_target` is the
      weighted median of the first measured step at or below it; a trajectory that never gets there counts as the last step, and as
      censored. `multitask_target` and `steps_to_multitask` are the same of `multitask` at step 20, or its last where that was not
      measured.
    - `sensitivity` tells the pairs at the primary step without some tasks.

    Args:
        records: of one regime and K; every arm has each (task, draw, seed) once at each of its steps.
        pairs: pairs of arms.
        primary_step: that of the sensitivity rows.
        target_arm: whose loss is the target; there is none without its records.
        tasks: each task's `relatives`, and `majority` or `headroom`; none of these tells apart if it is missing.
        resamples: bootstrap resamples.
        seed: of the resamples.

    Raises:
        ValueError: the records are of several settings, none, incomplete or repeated, or an arm of a pair has none.
    """
    table = Table.of(records)
    for arm in sorted({arm for pair in pairs for arm in pair} - set(table.arms)):
        raise ValueError(f"there are no records of arm {arm!r}; the arms are {', '.join(table.arms)}")
    everything = Sampling(table, resamples, seed, np.ones(len(table.rows), dtype=np.bool_))
    target = find_target(table, target_arm, TARGET_STEP, lowest=True)
    multitask_target = find_target(table, MULTITASK, MULTITASK_STEP)
    targets = {"steps_to_target": target, "steps_to_multitask": multitask_target}
    regime, shots = table.setting
    return {
        "regime": regime,
        "k": shots,
        "summary": {arm: {str(step): everything.metrics(arm, step) for step in table.arms[arm].steps} for arm in table.arms},
        "pairs": {pair_name(pair): {str(step): everything.pair_metrics(pair, step) for step in table.shared_steps(pair)} for pair in pairs},
        "curves": {arm: found for arm in table.arms if (found := _curve(everything, arm, targets))},
        "curve_pairs": {pair_name(pair): found for pair in pairs if (found := _curve_pair(everything, pair))},
        "target": target,
        "multitask_target": multitask_target,
        "sensitivity": list(_sensitivity(records, everything, pairs, primary_step, tasks or {})),
    }


def pair_name(pair: Pair) -> str:
    """What a pair is called: `first-second`."""
    return "-".join(pair)


@dataclass(frozen=True, slots=True)
class Replicated:
    """A number's replicates (W,) over the rows (R,) that it was measured on."""

    columns: Columns
    rows: BoolArray
    replicates: FloatArray


@dataclass(frozen=True)
class Sampling:
    """A table, or those of its rows that are kept, resampled; what was worked out is kept for pairs that share it."""

    table: Table
    resamples: int
    seed: int
    kept: BoolArray
    wanted: tuple[str, ...] | None = None
    _designs: dict[bytes, Design] = field(default_factory=dict, repr=False)
    _found: dict[tuple[str, int], dict[str, Replicated]] = field(default_factory=dict, repr=False)

    def without(self, tasks: set[str]) -> Sampling:
        """The same without some tasks, of the metrics in `SENSITIVE` alone."""
        kept = np.array([task not in tasks for _, _, task, _ in self.table.rows])
        return self if kept.all() else Sampling(self.table, self.resamples, self.seed, kept, SENSITIVE)

    def metrics(self, arm: str, step: int) -> Metrics:
        """Every metric of an arm at a step."""
        return {metric: self._interval(one).to_json() for metric, one in self._at(arm, step).items()}

    def pair_metrics(self, pair: Pair, step: int) -> Metrics:
        """Every metric that both arms of a pair have at a step, first minus second."""
        first, second = (self._at(arm, step) for arm in pair)
        both = [metric for metric in first if metric in second and (first[metric].rows & second[metric].rows).any()]
        return {metric: self._difference(first[metric], second[metric]).to_json() for metric in both}

    def interval(self, columns: Columns) -> Interval:
        """The interval of a number."""
        return self._interval(self._replicated({"": columns})[""])

    def difference(self, first: Columns, second: Columns) -> Interval:
        """The interval of how much the first number is more than the second."""
        found = self._replicated({"first": first, "second": second})
        return self._difference(found["first"], found["second"])

    def _interval(self, one: Replicated) -> Interval:
        return self._design(one.rows).interval(one.replicates, one.columns.limits)

    def _difference(self, first: Replicated, second: Replicated) -> Interval:
        rows = first.rows & second.rows
        one, other = (each if (each.rows == rows).all() else self._over(rows, {"": each.columns})[""] for each in (first, second))
        limits = first.columns.limits[0] - second.columns.limits[1], first.columns.limits[1] - second.columns.limits[0]
        return self._design(rows).interval(one.replicates - other.replicates, limits)

    def _at(self, arm: str, step: int) -> dict[str, Replicated]:
        """Every metric of an arm at a step, as far as it is wanted; one that does not adapt has the same at every step."""
        trajectories = self.table.arms[arm]
        key = arm, 0 if trajectories.constant else step
        if key not in self._found:
            columns = columns_at(trajectories, step)
            self._found[key] = self._replicated({metric: columns[metric] for metric in self.wanted or columns})
        return self._found[key]

    def _replicated(self, columns: Mapping[str, Columns]) -> dict[str, Replicated]:
        """The replicates of numbers that have been measured on some of the kept rows; those on the same ones are worked out together."""
        by_rows: dict[bytes, dict[str, Columns]] = defaultdict(dict)
        for metric, own in columns.items():
            by_rows[(own.rows & self.kept).tobytes()][metric] = own
        over = {rows: np.frombuffer(rows, dtype=np.bool_) for rows in by_rows}
        found = [self._over(over[rows], own) for rows, own in by_rows.items() if over[rows].any()]
        return {metric: one for group in found for metric, one in group.items()}

    def _over(self, rows: BoolArray, columns: Mapping[str, Columns]) -> dict[str, Replicated]:
        """The replicates of numbers over the same rows."""
        ends = np.cumsum([own.values.shape[2] for own in columns.values()])[:-1]
        means = self._design(rows).means(np.concatenate([own.values[rows] for own in columns.values()], axis=2))
        pieces = np.split(means, ends, axis=1)
        return {metric: Replicated(own, rows, own.fold(piece)) for (metric, own), piece in zip(columns.items(), pieces, strict=True)}

    def _design(self, rows: BoolArray) -> Design:
        """The replicates' weights over some rows."""
        key = rows.tobytes()
        if key not in self._designs:
            own = [row for row, one in zip(self.table.rows, rows, strict=True) if one]
            self._designs[key] = make_design(own, len(self.table.seeds), self.resamples, self.seed)
        return self._designs[key]


def find_target(table: Table, arm: str, step: int, *, lowest: bool = False) -> Target | None:
    """The loss to reach on each task: an arm's mean over draws and seeds, at a step or else its last.

    Args:
        table: the records.
        arm: whose loss it is.
        step: where it is taken, if it was measured there.
        lowest: take a task's loss at another step where it is lower there.

    Returns:
        The target; None without the arm, or where it does not adapt.
    """
    if arm not in table.arms or table.arms[arm].constant:
        return None
    own = table.arms[arm]
    step = step if step in own.steps else own.steps[-1]
    losses_TR = (own.values["loss"] if lowest else own.at("loss", step)[None]).mean(2)
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, (_, _, task, _) in enumerate(table.rows):
        by_task[task].append(index)
    return {"arm": arm, "step": step, "losses": {task: float(losses_TR[:, rows].mean(1).min()) for task, rows in by_task.items()}}


def _curve(sampling: Sampling, arm: str, targets: Mapping[str, Target | None]) -> dict[str, Any]:
    """What is told of an arm's curve as a whole; `targets` by the name of the steps to each."""
    trajectories = sampling.table.arms[arm]
    if len(trajectories.steps) < 2:
        return {}
    areas = {f"auc_{metric}": sampling.interval(_area(trajectories, metric)).to_json() for metric in ("loss", "accuracy")}
    return {**areas, **{name: _steps_to(sampling, trajectories, target) for name, target in targets.items() if target}}


def _curve_pair(sampling: Sampling, pair: Pair) -> dict[str, Any]:
    first, second = (sampling.table.arms[arm] for arm in pair)
    if len(first.steps) < 2 or first.steps != second.steps:
        return {}
    return {f"auc_{metric}": sampling.difference(_area(first, metric), _area(second, metric)).to_json() for metric in ("loss", "accuracy")}


def _area(trajectories: Trajectories, metric: str) -> Columns:
    """The area under a curve over log2(1 + step), by trapezoids, over the length of that range."""
    places = np.log2(1 + np.array(trajectories.steps))
    area = np.trapezoid(trajectories.values[metric], places, axis=0) / (places[-1] - places[0])
    return Columns(area[..., None], POSITIVE if metric == "loss" else SHARE)


def _steps_to(sampling: Sampling, trajectories: Trajectories, target: Target) -> dict[str, float]:
    """The weighted median of the steps to a target, with Woodruff's (1952) interval, and the share that is censored.

    The median is where the share of trajectories that have arrived passes a half; the interval's ends are where the ends of that
    share's interval do, so they are measured steps too.
    """
    losses_R = np.array([target["losses"][task] for _, _, task, _ in sampling.table.rows])
    arrived = np.logical_or.accumulate(trajectories.values["loss"] <= losses_R[:, None], axis=0).astype(np.float64)
    shares = [sampling.interval(Columns(each[..., None], SHARE)) for each in arrived]

    return {
        "mean": _passes_half(trajectories.steps, [share.mean for share in shares]),
        "low": _passes_half(trajectories.steps, [share.high for share in shares]),
        "high": _passes_half(trajectories.steps, [share.low for share in shares]),
        "censored": 1 - shares[-1].mean,
    }


def _passes_half(steps: Sequence[int], shares: Sequence[float]) -> float:
    """The first step at which a half has arrived, else the last."""
    return float(next((step for step, share in zip(steps, shares, strict=True) if share >= 0.5 - LEVEL_SLACK), steps[-1]))


def headroom(records: Sequence[Record], facts: Facts, step: int) -> dict[str, bool]:
    """Whether any arm's accuracy on each task, its mean over draws and seeds, beats the commonest output by two standard errors.

    An arm that does not adapt counts with its step 0. The standard error is that of a share of one draw's query examples, which all
    draws and seeds have in common; of none or all right it is that of (right + 1/2) / (examples + 1).

    Args:
        records: of any settings.
        facts: each task's `majority`, the share of its commonest output.
        step: the adaptation step.
    """
    last = {arm: max(record.step for record in records if record.arm == arm) for arm in {record.arm for record in records}}
    found: dict[tuple[str, str, str, int], list[Record]] = defaultdict(list)
    for record in records:
        if record.step == (step if last[record.arm] > 0 else 0):
            found[record.task, record.arm, record.regime, record.k].append(record)
    beaten = {task for (task, *_), own in found.items() if _beats(own, facts[task]["majority"])}
    return {task: task in beaten for task in sorted({record.task for record in records})}


def _beats(records: Sequence[Record], majority: float) -> bool:
    accuracy = math.fsum(record.accuracy for record in records) / len(records)
    examples = max(record.examples for record in records)
    inner = accuracy if 0 < accuracy < 1 else (accuracy * examples + 0.5) / (examples + 1)
    return accuracy > majority + 2 * math.sqrt(inner * (1 - inner) / examples)


def _sensitivity(
    records: Sequence[Record], everything: Sampling, pairs: Sequence[Pair], step: int, facts: Facts
) -> Iterator[dict[str, Any]]:
    """The pairs at a step, with all tasks and then without some."""
    table = everything.table
    told = [pair for pair in pairs if step in table.shared_steps(pair) or all(table.arms[arm].constant for arm in pair)]
    tasks = {task for _, _, task, _ in table.rows}
    for title, left_out in _left_out(records, table, step, facts):
        if left_out < tasks:
            sampling = everything.without(left_out)
            found = {pair_name(pair): sampling.pair_metrics(pair, step) for pair in told}
            found = {pair: {metric: metrics[metric] for metric in SENSITIVE} for pair, metrics in found.items()}
            yield {"name": title, "tasks": len(tasks - left_out), "left_out": sorted(left_out), "pairs": found}


def _left_out(records: Sequence[Record], table: Table, step: int, facts: Facts) -> Iterator[tuple[str, set[str]]]:
    """Names of sensitivity rows, and the tasks that each leaves out."""
    tasks = {task: cluster for cluster, _, task, _ in table.rows}
    flat = _without_headroom(records, step, facts)
    related = {task for task in tasks if facts.get(task, {}).get("relatives")}
    yield "all tasks", set()
    if flat:
        yield "without tasks that have no headroom", flat
    if related:
        yield "without near relatives", related
    if flat and related:
        yield "without both", flat | related
    clusters = sorted(set(tasks.values()))
    for cluster in clusters if len(clusters) >= ENOUGH_TO_LEAVE_ONE_OUT else ():
        yield f"without cluster {cluster}", {task for task, own in tasks.items() if own == cluster}


def _without_headroom(records: Sequence[Record], step: int, facts: Facts) -> set[str]:
    """The tasks without headroom, as their facts say, else as the records do."""
    told = {task: fact["headroom"] for task, fact in facts.items() if "headroom" in fact}
    untold = {task for task, fact in facts.items() if task not in told and "majority" in fact}
    told |= headroom([record for record in records if record.task in untold], facts, step)
    return {record.task for record in records if told.get(record.task) is False}
