"""What adapting is told by: tables, a sentence on whether the head start helped, and a picture."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from headstart.adapting.flow import Outcome, Side
from headstart.adapting.samples import Sample
from headstart.adapting.trials import FRESH_RATES, HEAD_START
from headstart.figures import BLUE, FONT_SIZE, VERMILLION, label, new_figure, write_png

CURVES_SIZE = (8.0, 4.4)
WIDEST_TEXT = 60


def results(outcome: Outcome) -> dict[str, Any]:
    """What was measured, for `headstart.json`."""
    found: dict[str, Any] = {
        "steps": outcome.steps,
        "rows": len(outcome.job.rows),
        "held_out_loss": {way: {str(step): loss for step, loss in held.items()} for way, held in outcome.curves.items()},
    }
    if outcome.sides:
        found["measured"] = {
            "rows": len(outcome.rows),
            "how": how_measured(outcome),
            "accuracy": accuracy_kind(outcome),
            "sides": {
                side.name: {"steps": side.steps, "loss": side.metrics.loss, "accuracy": side.metrics.accuracy} for side in outcome.sides
            },
        }
    if len(outcome.sides) > 2:
        found["verdict"] = verdict(outcome)
    return found


def how_measured(outcome: Outcome) -> str:
    """On which rows the table's numbers are."""
    rows = f"{len(outcome.rows)} held-out rows"
    if outcome.cross_fitted:
        rows = f"{len(outcome.rows)} rows, cross-fitted: each answered by an adapter that was fitted to others"
    return f"{rows}; they chose what is compared as well, which flatters somewhat" if outcome.chosen_on else rows


def accuracy_kind(outcome: Outcome) -> str:
    """What is counted as right."""
    return "label ranking" if outcome.job.task.labels else "exact match"


def comparison(outcome: Outcome) -> Table:
    """Loss and accuracy before, after and, where compared, of a fresh LoRA."""
    table = Table(title=how_measured(outcome), box=SIMPLE_HEAD, show_edge=False)
    table.add_column("", no_wrap=True)
    for side in outcome.sides:
        table.add_column(_heading(side), justify="right")
    metrics = [side.metrics for side in outcome.sides]
    table.add_row("loss", *(f"{each.loss:.3f}" for each in metrics))
    table.add_row(f"accuracy ({accuracy_kind(outcome)})", *(f"{each.accuracy:.1%}" for each in metrics))
    return table


def predictions(samples: Sequence[Sample], sides: Sequence[Side]) -> Table:
    """A handful of rows with what was answered, side by side."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("input", "expected", *(_heading(side) for side in sides)):
        table.add_column(heading, overflow="fold")
    for sample in samples:
        table.add_row(*(cut(text) for text in (sample.input, sample.expected, *sample.answers)))
    return table


def cut(text: str) -> str:
    """A text in one line of at most 60 characters; brackets are shown as they are."""
    line = " ".join(text.split())
    return (line if len(line) <= WIDEST_TEXT else f"{line[: WIDEST_TEXT - 1]}…").replace("[", r"\[")


def _heading(side: Side) -> str:
    return side.name if side.name == "before" else f"{side.name}, {side.steps} step{'s' * (side.steps != 1)}"


def verdict(outcome: Outcome) -> str:
    """Whether the head start helped beside a fresh LoRA that was tuned, by the paired difference of the measured rows' losses."""
    _, own, other = outcome.sides
    differences = [theirs.loss - ours.loss for ours, theirs in zip(own.answers, other.answers, strict=True)]
    gain, error = fmean(differences), 2 * stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else float("inf")
    rival = f"a fresh LoRA with the best of {len(FRESH_RATES)} rates and of numbers of steps ({other.name}, {other.steps} steps)"
    points = 100 * (own.metrics.accuracy - other.metrics.accuracy)
    measured = f"loss {abs(gain):.3f} ± {error:.3f} {'lower' if gain > 0 else 'higher'}, accuracy {points:+.1f} points"
    if gain > error:
        return f"The head start helps: {measured}, against {rival}.{_sooner(outcome, other)}"
    if gain < -error:
        return f"The head start does not help here: {measured}, against {rival}. Take the fresh LoRA, or more rows."
    undecided = f"The head start makes no clear difference in the end: {measured}, against {rival}."
    return undecided + _sooner(outcome, other)


def _sooner(outcome: Outcome, other: Side) -> str:
    """How many steps the head start took to where the fresh LoRA got."""
    own, its = (outcome.curves.get(name, {}) for name in (outcome.sides[1].name, other.name))
    if not own or not its:
        return ""
    # measured rows may say otherwise than those that chose; of that there is nothing to tell in steps
    lowest = min(its, key=its.__getitem__)
    reached = next((step for step, loss in own.items() if loss <= its[lowest]), None)
    if reached is None:
        return ""
    return f" It was at the fresh LoRA's lowest held-out loss after {reached} steps, the fresh LoRA after {lowest}."


def many(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each file: what `results` gave, with `name` and `output`, or `failed`."""
    compared = any("verdict" in row for row in rows)
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("task")
    for heading in ("rows", "steps", "loss before", "after", *(["fresh"] if compared else []), "accuracy before", "after"):
        table.add_column(heading, justify="right")
    if compared:
        table.add_column("fresh", justify="right")
    table.add_column("")
    for row in rows:
        table.add_row(*_cells(row, compared))
    return table


def _cells(row: Mapping[str, Any], compared: bool) -> list[str]:
    wide = 3 if compared else 2
    if row.get("failed"):
        return [row["name"], *[""] * (2 + 2 * wide), f"failed: {row['failed']}".replace("[", r"\[")]
    sides = list(row.get("measured", {}).get("sides", {}).values())
    cells = [[f"{side['loss']:.3f}" for side in sides], [f"{side['accuracy']:.1%}" for side in sides]]
    filled = [cell for own in cells for cell in (*own, *[""] * (wide - len(own)))]
    return [row["name"], str(row["rows"]), str(row["steps"]), *filled, row.get("note", "")]


def plot_adapting(outcome: Outcome, path: Path) -> None:
    """Write the picture of an adapting: training loss, and the loss of what was held out; whole or not at all."""
    figure = new_figure(CURVES_SIZE)
    axes = figure.subplots()
    rivals = [name for name in outcome.curves if name not in {side.name for side in outcome.sides} and name != HEAD_START]
    for name, held in outcome.curves.items():
        own = name == HEAD_START
        style: dict[str, Any] = {"color": BLUE if own else VERMILLION, "marker": "o" if own else "s", "linewidth": 1.8}
        if name in rivals:
            style |= {"color": "0.7", "marker": "", "linewidth": 0.9}
        # rates that lost are one kind of line, named once
        shown = f"{name}, held out" if name not in rivals else "fresh LoRA, other rates" if name == rivals[0] else None
        axes.plot(list(held), list(held.values()), label=shown, markersize=4, **style)
    if outcome.losses:
        axes.plot(range(len(outcome.losses)), outcome.losses, label="training, before each step", color="black", linewidth=1.0)
    axes.axvline(outcome.steps, color="0.4", linewidth=1.0, linestyle=":", label=f"kept: {outcome.steps} steps")
    lowest_start = max((held[0] for held in outcome.curves.values() if 0 in held), default=None)
    if lowest_start:
        # a rate far too high leaves the picture rather than flatten the rest
        axes.set_ylim(0, 1.1 * max(lowest_start, max(outcome.losses, default=0.0)))
    label(axes, "step", "loss")
    figure.legend(loc="outside right center", frameon=False, fontsize=FONT_SIZE - 1)
    write_png(figure, path)
