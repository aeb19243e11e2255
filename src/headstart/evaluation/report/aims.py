"""What the project aims at on tasks of kinds that were never seen, and what an evaluation says of each aim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from headstart.evaluation.report.schema import ROUNDING, Interval, MetricName, RegimeName, Results, Setting, StepsToTarget
from headstart.evaluation.report.view import METRICS, REGIMES, TARGETS, StepsTo, at, primary_settings

Standing = Literal["reached", "not reached", "not decided"]
Bounds = Mapping[RegimeName, float]


@dataclass(frozen=True)
class Aim:
    """What a number is wanted to be, at the primary step and K.

    Args:
        of: the arm, or the pair, first minus second.
        metric: of a step, or the steps to a target.
        sense: whether it is wanted to be a bound or more, or a bound or less.
        bounds: by regime.
        lead: the mean is held to the bound and the interval to lie above 0, where others' whole interval is held to the bound.
    """

    of: str
    metric: MetricName | StepsTo
    sense: Literal["at least", "at most"]
    bounds: Bounds
    lead: bool = False

    @property
    def paired(self) -> bool:
        """Whether it is of a difference."""
        return "-" in self.of

    def standing(self, found: Interval | StepsToTarget, regime: RegimeName) -> Standing:
        """What an interval says of it: "not decided" where the bound lies within, or a lead's interval is not above 0."""
        bound, sign = self.bounds[regime], 1 if self.sense == "at least" else -1
        worst, best = sorted(sign * (found[end] - bound) for end in ("low", "high"))
        if best < -ROUNDING:
            return "not reached"
        led = found["mean"] >= bound - ROUNDING and found["low"] > ROUNDING
        return "reached" if (led if self.lead else worst >= -ROUNDING) else "not decided"

    def wanted(self, regimes: Sequence[RegimeName]) -> str:
        """Such as "at least +1.0 points instructed, +3.0 points house rules, interval above 0"."""
        told = {regime: self._bound(self.bounds[regime]) for regime in regimes}
        same = len(set(told.values())) == 1
        bounds = told[regimes[0]] if same else ", ".join(f"{bound} {REGIMES[regime]}" for regime, bound in told.items())
        return f"{self.sense} {bounds}{', interval above 0' if self.lead else ''}"

    def _bound(self, bound: float) -> str:
        metric = METRICS[self.metric]
        unit = (" points" if self.paired else "%") if metric.percent else ""
        return f"{metric.number(bound, signed=self.paired)}{unit}"


def _everywhere(bound: float) -> Bounds:
    return dict.fromkeys(REGIMES, bound)


AHEAD: Bounds = {"instructed": 0.01, "house_rules": 0.03}
AIMS = (
    Aim("meta_adamw-multitask", "accuracy", "at least", AHEAD, lead=True),
    Aim("meta-multitask", "accuracy", "at least", AHEAD, lead=True),
    Aim("meta-meta_adamw", "accuracy", "at least", _everywhere(0.0)),
    Aim("meta_adamw", "steps_to_target", "at most", _everywhere(5)),
    Aim("meta", "steps_to_target", "at most", _everywhere(5)),
    Aim("meta_adamw", "steps_to_multitask", "at most", _everywhere(10)),
    Aim("meta", "steps_to_multitask", "at most", _everywhere(10)),
    Aim("meta_adamw", "improved", "at least", _everywhere(0.9)),
    Aim("meta", "improved", "at least", _everywhere(0.9)),
    Aim("meta_adamw-multitask", "ece", "at most", _everywhere(0.02)),
    Aim("meta-multitask", "ece", "at most", _everywhere(0.02)),
    Aim("meta_adamw-multitask", "drift", "at most", _everywhere(0.0)),
)
"""Shares and their differences as in the document, where 0.01 is a point."""


KEY = (
    "Reached: the whole interval keeps to what is wanted or, where it is wanted above 0, lies there while the mean keeps to the bound. "
    "Not reached: the whole interval misses the bound. Not decided: anything else. "
    "What was not measured, or not for enough steps, is left out."
)
"""How standings are read."""


@dataclass(frozen=True)
class Finding:
    """What was found of an aim under one regime.

    Args:
        interval: of the number.
        standing: what it says of the aim.
    """

    interval: Interval | StepsToTarget
    standing: Standing


@dataclass(frozen=True)
class Assessed:
    """An aim and what was found of it.

    Args:
        aim: the aim.
        title: its number in words.
        wanted: its bound in words.
        findings: by regime, in the order of the document; None where it was not measured there.
    """

    aim: Aim
    title: str
    wanted: str
    findings: Mapping[RegimeName, Finding | None]


def assess(results: Results, aims: Sequence[Aim] = AIMS) -> list[Assessed]:
    """Every aim that the document's settings of the primary K, one a regime, have a number of at the primary step.

    Steps count as measured where they and the target go beyond what is aimed at: no one replaces ten steps by ten.
    """
    settings, step = primary_settings(results), results["protocol"]["primary"]["step"]
    regimes = [setting["regime"] for setting in settings]
    assessed = []
    for aim in aims:
        found = {setting["regime"]: _finding(aim, setting, step) for setting in settings}
        told = [setting for setting in settings if found[setting["regime"]]]
        if told:
            assessed.append(Assessed(aim, _title(aim, told[0]), aim.wanted(regimes), found))
    return assessed


def _finding(aim: Aim, setting: Setting, step: int) -> Finding | None:
    interval = _measured(aim, setting, step)
    return Finding(interval, aim.standing(interval, setting["regime"])) if interval else None


def _measured(aim: Aim, setting: Setting, step: int) -> Interval | StepsToTarget | None:
    """An aim's number in a setting, or None."""
    if aim.metric == "steps_to_target" or aim.metric == "steps_to_multitask":
        return _steps_to(aim, aim.metric, setting)
    return at(setting["pairs" if aim.paired else "summary"].get(aim.of, {}), aim.metric, step)


def _steps_to(aim: Aim, metric: StepsTo, setting: Setting) -> StepsToTarget | None:
    """The steps to a target, where the target and the arm's last step, which stands for never, lie beyond the bound."""
    curve, target = setting["curves"].get(aim.of), setting[TARGETS[metric]]
    if curve is None or target is None or metric not in curve:
        return None
    last = max(map(int, setting["summary"].get(aim.of, ())), default=0)
    return curve[metric] if min(last, target["step"]) > aim.bounds[setting["regime"]] else None


def _title(aim: Aim, setting: Setting) -> str:
    """Such as "accuracy", or "steps to random's loss at step 50"."""
    target = setting[TARGETS[aim.metric]] if aim.metric in TARGETS else None
    return f"steps to {target['arm']}'s loss at step {target['step']}" if target else METRICS[aim.metric].title
