"""The geometry of the page's pictures: where lines, bands, marks and names lie, in the units of an SVG's view box."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headstart.evaluation.report.schema import Interval, MetricName, Setting
from headstart.evaluation.report.view import METRICS, Metric, Series, all_steps, series

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 136, 14, 40
LINE_GAP = 15
"""Between the names beside a picture."""
NAME_LENGTH = 16
"""Of the longest name that has room there."""
ROW_HEIGHT = 44
FOREST_WIDTH, FOREST_MARGIN = 292, 14
"""Of the part that holds the intervals; their words stand right of it."""
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.6L4.4 3.4H-4.4z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.6L4.4 -3.4H-4.4z",
    "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.4 -2.4L-2.4 -4.4L0 -2L2.4 -4.4L4.4 -2.4L2 0L4.4 2.4L2.4 4.4L0 2L-2.4 4.4L-4.4 2.4L-2 0z",
    "M0 -5.4L1.5 -1.8L5.2 -1.7L2.3 0.7L3.3 4.4L0 2.2L-3.3 4.4L-2.3 0.7L-5.2 -1.7L-1.5 -1.8z",
)
"""Marks around the origin, one for each arm; they come round again."""


@dataclass(frozen=True)
class Scale:
    """A straight line from values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value, to a hundredth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


@dataclass(frozen=True)
class Point:
    """A mark with what it says where the pointer rests on it."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class Line:
    """An arm's curve: `look` counts colours, dashes and marks; `label_y` is where its name stands."""

    name: str
    look: int
    path: str
    band: str
    points: tuple[Point, ...]
    end: tuple[float, float]
    label_y: float

    @property
    def mark(self) -> str:
        """The outline of its marks."""
        return MARKS[self.look % len(MARKS)]

    @property
    def short_name(self) -> str:
        """Its name, cut where there is no room for it."""
        return self.name if len(self.name) <= NAME_LENGTH else f"{self.name[: NAME_LENGTH - 1]}…"


@dataclass(frozen=True)
class Panel:
    """A metric against the steps; ticks are pairs of a place and what stands there."""

    title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class ForestRow:
    """An interval: its ends and its mean as places across, its words, and whether it leaves out 0."""

    name: str
    value: str
    y: float
    low: float
    mean: float
    high: float
    decided: bool


@dataclass(frozen=True)
class Forest:
    """Intervals of a difference, one beneath the other, with the line of no difference."""

    title: str
    left: str
    right: str
    zero: float
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[ForestRow, ...]
    height: float


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values from at or below `low` to at or above `high`, at most about `most` of them."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / max(1, most - 1)
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def spread_out(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved as little as makes neighbours stand `gap` apart between `low` and `high`, closer only where there is no room.

    Least squares over places in order, by pooling those that stand too close (isotonic regression).
    """
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    pools: list[tuple[float, int]] = []
    for number, index in enumerate(order):
        mean, size = places[index] - number * gap, 1
        while pools and pools[-1][0] >= mean:
            before, others = pools.pop()
            mean, size = (before * others + mean * size) / (others + size), others + size
        pools.append((mean, size))
    highest = high - (len(places) - 1) * gap
    firsts = [min(max(mean, low), highest) for mean, size in pools for _ in range(size)]
    moved = {index: round(firsts[number] + number * gap, 2) for number, index in enumerate(order)}
    return [moved[index] for index in range(len(places))]


def curve_panel(setting: Setting, metric: MetricName, looks: Mapping[str, int]) -> Panel:
    """The picture of every arm's metric against the steps, which stand evenly spaced."""
    how, steps, curves = METRICS[metric], all_steps(setting), series(setting["summary"], metric)
    ends = [value for each in curves for found in each.intervals.values() for value in (found["low"], found["high"], found["mean"])]
    marks = ticks(min(ends) * how.scale, max(ends) * how.scale)
    across, up = _across(steps), Scale(marks[0] / how.scale, marks[-1] / how.scale, HEIGHT - BOTTOM, TOP)
    last = [up(each.over(steps)[max(each.over(steps))]["mean"]) for each in curves]
    label_ys = spread_out(last, LINE_GAP, TOP, HEIGHT - BOTTOM)
    return Panel(
        f"{how.title}, %" if how.percent else f"query {how.title}",
        tuple((across[step], str(step)) for step in steps),
        tuple((up(value / how.scale), f"{value:.6g}") for value in marks),
        tuple(_line(each, looks[each.name], how, across, up, y) for each, y in zip(curves, label_ys, strict=True)),
    )


def _across(steps: Sequence[int]) -> dict[int, float]:
    width = (WIDTH - LEFT - RIGHT) / max(1, len(steps) - 1)
    return {step: round(LEFT + number * width, 2) for number, step in enumerate(steps)}


def _line(curve: Series, look: int, how: Metric, across: Mapping[int, float], up: Scale, label_y: float) -> Line:
    found = curve.over(list(across))
    xs = [across[step] for step in found]
    means, lows, highs = zip(*((up(each["mean"]), up(each["low"]), up(each["high"])) for each in found.values()), strict=True)
    points = tuple(
        Point(across[step], up(interval["mean"]), f"{curve.name}, step {step}: {how.interval(interval)}")
        for step, interval in curve.intervals.items()
    )
    outline = [*zip(xs, lows, strict=True), *reversed([*zip(xs, highs, strict=True)])]
    return Line(curve.name, look, _path(zip(xs, means, strict=True)), f"{_path(outline)}z", points, (xs[-1], means[-1]), label_y)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def forest(named: Sequence[tuple[str, Interval]], metric: MetricName, first: str, second: str) -> Forest:
    """The picture of differences of one metric, first minus second, the side of 0 that speaks for each being named."""
    how = METRICS[metric]
    ends = [value * how.scale for _, found in named for value in (found["low"], found["high"], found["mean"])]
    marks = ticks(min(0, *ends), max(0, *ends))
    across = Scale(marks[0] / how.scale, marks[-1] / how.scale, FOREST_MARGIN, FOREST_WIDTH - FOREST_MARGIN)
    left, right = (second, first) if how.better > 0 else (first, second)
    return Forest(
        f"{how.title} difference, {'points' if how.percent else how.unit}",
        f"{left} ahead",
        f"{right} ahead",
        across(0),
        tuple((across(value / how.scale), f"{value:.6g}") for value in marks),
        tuple(_forest_row(name, found, how, across, number) for number, (name, found) in enumerate(named)),
        ROW_HEIGHT * len(named) + 64,
    )


def _forest_row(name: str, found: Interval, how: Metric, across: Scale, number: int) -> ForestRow:
    low, mean, high = across(found["low"]), across(found["mean"]), across(found["high"])
    decided = not found["low"] <= 0 <= found["high"]
    return ForestRow(name, how.interval(found, signed=True), 40 + ROW_HEIGHT * number, low, mean, high, decided)
