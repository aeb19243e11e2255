"""What the table, the picture and the page share: metrics in words, names of settings, curves by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from headstart.evaluation.report.schema import Interval, MetricName, Metrics, RegimeName, Results, Setting, StepsToTarget


@dataclass(frozen=True)
class Metric:
    """How a metric is written.

    Args:
        title: its name in words.
        digits: behind the point.
        percent: it is a share, written in per cent, and differences of it in points.
        unit: of what is not a share, as a headline names it.
        better: the sign of a difference for the better, or 0 where neither is.
    """

    title: str
    digits: int
    percent: bool = False
    unit: str = ""
    better: int = 0

    @property
    def scale(self) -> int:
        """From the document's unit to the written one."""
        return 100 if self.percent else 1

    @property
    def points(self) -> str:
        """The unit of a difference."""
        return f"{self.title} points" if self.percent else f"{self.unit} of {self.title}".removeprefix(" of ")

    def number(self, value: float, signed: bool = False) -> str:
        """A value without its unit, and never minus zero."""
        text = f"{value * self.scale:{'+' if signed else ''}.{self.digits}f}"
        return text if text.strip("+-0.") else text.lstrip("+-")

    def interval(self, found: Interval | StepsToTarget, signed: bool = False, separator: str = " ") -> str:
        """`mean [low, high]`."""
        low, high = (self.number(found["low"], signed), self.number(found["high"], signed))
        percent = "%" if self.percent and not signed else ""
        return f"{self.number(found['mean'], signed)}{percent}{separator}[{low}, {high}]"


METRICS = {
    "loss": Metric("loss", 3, unit="nats", better=-1),
    "accuracy": Metric("accuracy", 1, percent=True, better=1),
    "invalid": Metric("invalid output", 1, percent=True, better=-1),
    "ece": Metric("calibration error", 1, percent=True, better=-1),
    "gain": Metric("gain from adapting", 3, unit="nats", better=1),
    "improved": Metric("improved by adapting", 1, percent=True, better=1),
    "drift": Metric("drift", 2, percent=True, better=-1),
    "auc_loss": Metric("area under the loss", 3, better=-1),
    "auc_accuracy": Metric("area under the accuracy", 1, percent=True, better=1),
    "steps_to_target": Metric("steps to target", 1, better=-1),
    "steps_to_multitask": Metric("steps to multitask", 1, better=-1),
}
MAIN: tuple[MetricName, ...] = ("loss", "accuracy")
OTHERS: tuple[MetricName, ...] = ("invalid", "ece", "gain", "improved", "drift")
StepsTo = Literal["steps_to_target", "steps_to_multitask"]
CurveMetric = Literal["auc_loss", "auc_accuracy"] | StepsTo
TARGETS: dict[StepsTo, Literal["target", "multitask_target"]] = {"steps_to_target": "target", "steps_to_multitask": "multitask_target"}
"""What the steps lead to."""
CURVE_METRICS: tuple[CurveMetric, ...] = ("auc_loss", "auc_accuracy", *TARGETS)
REGIMES: dict[RegimeName, str] = {"instructed": "instructed", "house_rules": "house rules"}


@dataclass(frozen=True)
class Series:
    """One arm's or pair's metric at the steps it was measured at.

    Args:
        name: of the arm or pair.
        intervals: by step, ascending.
    """

    name: str
    intervals: Mapping[int, Interval]

    @property
    def constant(self) -> bool:
        """Measured at step 0 alone, as what does not adapt is."""
        return list(self.intervals) == [0]

    def over(self, steps: Sequence[int]) -> dict[int, Interval]:
        """By each of the steps that it has a value at; a constant one has it at all."""
        if self.constant:
            return dict.fromkeys(steps, self.intervals[0])
        return {step: self.intervals[step] for step in steps if step in self.intervals}


def series(curves: Mapping[str, Mapping[str, Metrics]], metric: MetricName) -> list[Series]:
    """Every arm's or pair's curve of one metric; those that never measured it are left out."""
    found = [Series(name, _by_step(curve, metric)) for name, curve in curves.items()]
    return [each for each in found if each.intervals]


def _by_step(curve: Mapping[str, Metrics], metric: MetricName) -> dict[int, Interval]:
    return {step: curve[str(step)][metric] for step in sorted(map(int, curve)) if metric in curve[str(step)]}


def at(curve: Mapping[str, Metrics], metric: MetricName, step: int) -> Interval | None:
    """A curve's metric at a step, that of a constant arm at any; None where it was not measured."""
    found = _by_step(curve, metric)
    return found.get(step, found.get(0) if list(found) == [0] else None)


def all_steps(setting: Setting) -> list[int]:
    """All steps at which some arm was measured, ascending."""
    return sorted({int(step) for curve in setting["summary"].values() for step in curve})


def primary_setting(results: Results) -> Setting:
    """The setting that the headline is about, or the first where it was not measured."""
    primary = results["protocol"]["primary"]
    wanted = (setting for setting in results["settings"] if (setting["regime"], setting["k"]) == (primary["regime"], primary["k"]))
    return next(wanted, results["settings"][0])


def primary_settings(results: Results) -> list[Setting]:
    """The settings of the primary K, one a regime."""
    return [setting for setting in results["settings"] if setting["k"] == results["protocol"]["primary"]["k"]]


def setting_title(setting: Setting) -> str:
    """Such as "house rules, K = 16"."""
    return f"{REGIMES[setting['regime']]}, K = {setting['k']}"


def sides(pair: str, arms: Sequence[str]) -> tuple[str, str]:
    """The two arms of a pair; names may hold dashes themselves."""
    cuts = [(pair[:place], pair[place + 1 :]) for place, sign in enumerate(pair) if sign == "-"]
    known = [cut for cut in cuts if set(cut) <= set(arms)]
    first, _, second = pair.partition("-")
    return known[0] if known else (first, second)


def count(number: int, noun: str) -> str:
    """Such as "1 task" and "2 tasks"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_design(results: Results, setting: Setting) -> str:
    """How many tasks, clusters and training seeds stand behind a setting, such as "24 tasks in 12 clusters, 3 training seeds"."""
    records = [record for record in results["records"] if (record["regime"], record["k"]) == (setting["regime"], setting["k"])]
    tasks = len({record["task"] for record in records})
    clusters = len({record["cluster"] for record in records})
    seeds = len({record["seed"] for record in records})
    return f"{count(tasks, 'task')} in {count(clusters, 'cluster')}, {count(seeds, 'training seed')}"
