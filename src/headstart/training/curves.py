"""The picture of a training run: losses against steps."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headstart.figures import BLUE, FONT_SIZE, VERMILLION, label, new_figure, write_png

TRAINING_SIZE = (9.0, 4.6)


def plot_training(metrics: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write `training_figure` as a PNG file, whole or not at all; raises `ValueError` as it does."""
    write_png(training_figure(metrics), path)


def training_figure(metrics: Iterable[Mapping[str, Any]]) -> Figure:
    """Training loss and validation loss before and after adapting, against the meta-training step.

    `metrics` are log rows: `step`, `phase` and `loss` on training rows; `step`, `phase`, `validation/loss_0` and
    `validation/loss_adapted` on validation rows. Steps count over the whole run; of rows repeated by a resumed run the last counts.
    Raises `ValueError` if there is no training row or a step lies in two phases.
    """
    rows = list(metrics)
    training, validation = _by_step(rows, "loss"), _by_step(rows, "validation/loss_0")
    if not training:
        raise ValueError("the metrics have no training row to plot")
    figure = new_figure(TRAINING_SIZE)
    axes = figure.subplots()
    phases = _phases(training)
    for number, (_, phase_rows) in enumerate(phases):
        _draw_training(axes, phase_rows, labelled=number == 0)
    _draw_validation(axes, validation)
    _mark_phases(axes, [(name, phase_rows[0]["step"]) for name, phase_rows in phases])
    label(axes, "meta-training step", "loss")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=FONT_SIZE, handlelength=3)
    return figure


def _by_step(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The rows that have the key, by ascending step; the last row of a step counts."""
    by_step: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        if key not in row:
            continue
        if row["step"] in by_step and by_step[row["step"]]["phase"] != row["phase"]:
            raise ValueError(f"step {row['step']} lies in two phases, {by_step[row['step']]['phase']!r} and {row['phase']!r}")
        by_step[row["step"]] = row
    return [by_step[step] for step in sorted(by_step)]


def _phases(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Consecutive rows of one phase name, in order."""
    phases: list[tuple[str, list[Mapping[str, Any]]]] = []
    for row in rows:
        if not phases or phases[-1][0] != row["phase"]:
            phases.append((row["phase"], []))
        phases[-1][1].append(row)
    return phases


def _draw_training(axes: Any, rows: Sequence[Mapping[str, Any]], labelled: bool) -> None:
    """Draw one phase's training loss; phases are smoothed apart because their losses mean different things."""
    steps = [row["step"] for row in rows]
    losses = np.array([row["loss"] for row in rows], dtype=np.float64)
    labels = ("training", "training, smoothed") if labelled else (None, None)
    axes.plot(steps, losses, label=labels[0], color="0.75", linewidth=0.7)
    axes.plot(steps, smooth(losses), label=labels[1], color="black", linewidth=1.8)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred running mean, shape kept, over about a tenth of the values; values that are not finite are left out."""
    width = 2 * (len(values) // 20) + 1
    finite = np.isfinite(values)
    padded = np.pad(np.where(finite, values, 0.0), width // 2)
    count = np.convolve(np.pad(finite.astype(np.float64), width // 2), np.ones(width), "valid")
    total = np.convolve(padded, np.ones(width), "valid")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw_validation(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    steps = [row["step"] for row in rows]
    styles = (
        ("validation/loss_0", "validation, step 0", VERMILLION, "s", "--"),
        ("validation/loss_adapted", "validation, adapted", BLUE, "o", "-"),
    )
    for key, name, colour, marker, line_style in styles:
        axes.plot(steps, [row[key] for row in rows], label=name, color=colour, marker=marker, linestyle=line_style, linewidth=1.8)


def _mark_phases(axes: Any, starts: Sequence[tuple[str, int]]) -> None:
    """A vertical line at each phase's first training row, its name above the panel; near neighbours take turns in two rows."""
    first, last = axes.get_xlim()
    edges = [start for _, start in starts] + [last]
    crowded = any(after - before < 0.15 * (last - first) for before, after in itertools.pairwise(edges))
    for number, (name, start) in enumerate(starts):
        axes.axvline(start, color="0.4", linewidth=1.0, linestyle=":")
        height = 1.08 if crowded and number % 2 else 1.02
        axes.text(start, height, name, transform=axes.get_xaxis_transform(), fontsize=FONT_SIZE, ha="left", va="bottom")
