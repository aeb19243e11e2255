"""The picture of an evaluation: loss and accuracy against adaptation steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from headstart.evaluation.report.schema import MetricName, Results, Setting
from headstart.evaluation.report.view import (
    MAIN,
    METRICS,
    Metric,
    Series,
    all_steps,
    describe_design,
    primary_setting,
    series,
    setting_title,
)
from headstart.figures import BLUE, FONT_SIZE, VERMILLION, label, new_figure, write_png

# Okabe and Ito's colours, with grey for yellow, which white paper swallows. The plain ones come first, for the baselines.
COLOURS = ("#7F7F7F", "#000000", BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", VERMILLION)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Seven against eight, so that the looks repeat only after 56 arms.
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 3)))
WIDTH, ROW_HEIGHT = 11.0, 4.6
"""In inches."""


def plot_evaluation(results: Results, path: str | Path, *, every: bool = False) -> None:
    """Write `evaluation_figure` as a PNG file, whole or not at all; raises `ValueError` as it does."""
    write_png(evaluation_figure(results, every=every), path)


def evaluation_figure(results: Results, *, every: bool = False) -> Figure:
    """Query loss and accuracy against adaptation steps, a line per arm with its shaded 95% interval.

    An arm measured at step 0 alone does not adapt and is drawn as a level line, marked at step 0.

    Args:
        results: the document.
        every: draw every setting, in rows, and not the primary one alone.

    Raises:
        ValueError: the document has no arms.
    """
    settings = results["settings"] if every else [primary_setting(results)]
    arms = list(dict.fromkeys(arm for setting in settings for arm in setting["summary"]))
    if not arms:
        raise ValueError("the results have no arms to plot")
    figure = new_figure((WIDTH, ROW_HEIGHT * len(settings)))
    panels = figure.subplots(len(settings), len(MAIN), squeeze=False, gridspec_kw={"wspace": 0.08})
    for row, setting in zip(panels, settings, strict=True):
        for axes, metric in zip(row, MAIN, strict=True):
            _draw_panel(axes, setting, metric, arms)
        if every:
            for axes, title in zip(row, (setting_title(setting), describe_design(results, setting)), strict=True):
                axes.set_title(title, loc="left", fontsize=FONT_SIZE)
    _add_legend(figure, list(panels[:, -1]))
    what = "" if every else f"{describe_design(results, settings[0])}, {setting_title(settings[0])}; "
    figure.suptitle(f"{what}shaded: 95% interval", fontsize=FONT_SIZE + 1)
    return figure


def _draw_panel(axes: Any, setting: Setting, metric: MetricName, arms: Sequence[str]) -> None:
    steps, how = all_steps(setting), METRICS[metric]
    for each in series(setting["summary"], metric):
        _draw_arm(axes, arms.index(each.name), each, steps, how)
    axes.set_xticks(range(len(steps)), [str(step) for step in steps])
    label(axes, "adaptation steps", f"{how.title}, %" if how.percent else f"query {how.title}")


def _add_legend(figure: Figure, panels: Sequence[Any]) -> None:
    """Name the arms top to bottom as the first panel's lines end, and right beside them."""
    handles = {line.get_label(): line for axes in reversed(panels) for line in axes.get_lines()}
    order = sorted(handles, key=lambda arm: -handles[arm].get_ydata()[-1])
    figure.legend([handles[arm] for arm in order], order, loc="outside right center", frameon=False, fontsize=FONT_SIZE, handlelength=4)


def _draw_arm(axes: Any, number: int, arm: Series, steps: Sequence[int], how: Metric) -> None:
    """Draw one arm's mean and interval; its steps stand evenly spaced, since they grow roughly as powers of two."""
    found = arm.over(steps)
    positions = [steps.index(step) for step in found]
    mean, low, high = ([how.scale * each[key] for each in found.values()] for key in ("mean", "low", "high"))
    colour = COLOURS[number % len(COLOURS)]
    axes.fill_between(positions, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        positions,
        mean,
        label=arm.name,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        linestyle=LINE_STYLES[number % len(LINE_STYLES)],
        markevery=list(range(len(arm.intervals))),
        markersize=6,
        linewidth=1.8,
    )
