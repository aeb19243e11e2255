"""The picture of an evaluation: loss and accuracy against adaptation steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from headstart.evaluation.report import describe_design, summary_steps
from headstart.figures import BLUE, FONT_SIZE, VERMILLION, label, new_figure, write_png

# Okabe and Ito's colours, with grey for yellow, which white paper swallows. The plain ones come first, for the baselines.
COLOURS = ("#7F7F7F", "#000000", BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", VERMILLION)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Seven against eight, so that the looks repeat only after 56 arms.
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 3)))
PANELS = (("loss", "query loss"), ("accuracy", "accuracy"))
EVALUATION_SIZE = (11.0, 4.6)


def plot_evaluation(results: Mapping[str, Any], path: str | Path) -> None:
    """Write `evaluation_figure` as a PNG file, whole or not at all; raises `ValueError` if the summary is empty."""
    write_png(evaluation_figure(results), path)


def evaluation_figure(results: Mapping[str, Any]) -> Figure:
    """Query loss and accuracy against adaptation steps of a results document, a line per arm with its shaded 95% interval.

    An arm measured at step 0 alone does not adapt and is drawn as a level line, marked at step 0. Raises `ValueError` if the summary is
    empty.
    """
    if not results["summary"]:
        raise ValueError("the results have no arms to plot")
    steps = summary_steps(results)
    figure = new_figure(EVALUATION_SIZE)
    panels = figure.subplots(1, len(PANELS), gridspec_kw={"wspace": 0.08})
    for axes, (metric, title) in zip(panels, PANELS, strict=True):
        for number, (arm, by_step) in enumerate(results["summary"].items()):
            _draw_arm(axes, number, arm, by_step, steps, metric)
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        label(axes, "adaptation steps", title)
    handles = dict(zip(results["summary"], panels[-1].get_lines(), strict=True))
    order = sorted(handles, key=lambda arm: -handles[arm].get_ydata()[-1])
    # Top to bottom as the accuracy lines end, and right beside them.
    figure.legend([handles[arm] for arm in order], order, loc="outside right center", frameon=False, fontsize=FONT_SIZE, handlelength=4)
    figure.suptitle(f"{describe_design(results)}; shaded: 95% interval", fontsize=FONT_SIZE + 1)
    return figure


def _draw_arm(axes: Any, number: int, arm: str, by_step: Mapping[str, Any], steps: Sequence[int], metric: str) -> None:
    """Draw one arm's mean and interval; its steps stand evenly spaced, since they grow roughly as powers of two."""
    measured = [step for step in steps if str(step) in by_step]
    positions = [steps.index(step) for step in measured]
    mean, low, high = ([by_step[str(step)][metric][key] for step in measured] for key in ("mean", "low", "high"))
    if measured == [0]:
        positions = list(range(len(steps)))
        mean, low, high = (values * len(steps) for values in (mean, low, high))
    colour = COLOURS[number % len(COLOURS)]
    axes.fill_between(positions, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        positions,
        mean,
        label=arm,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        linestyle=LINE_STYLES[number % len(LINE_STYLES)],
        markevery=list(range(len(measured))),
        markersize=6,
        linewidth=1.8,
    )
