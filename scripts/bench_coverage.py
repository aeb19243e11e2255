"""Coverage of the evaluation's intervals: how often they hold the truth, over simulated evaluations of known truth.

A design is a tree of clusters, datasets, tasks and support draws, seen under training seeds, with a normal effect of its own size on each
level; the truth is the mean of all effects, 0. What is not normal has a table of its own: differences of accuracies over few query
examples, and calibration errors, whose truth is that of a task of endless examples from a cluster drawn anew.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from headstart.evaluation.statistics import Design, Row, make_design


@dataclass(frozen=True)
class Effects:
    """Standard deviations of the normal effects, by level; `cell` is noise of one row under one seed."""

    cluster: float = 0.0
    dataset: float = 0.0
    draw: float = 0.0
    seed: float = 0.0
    cell: float = 0.0


MIXTURES = {
    "clusters": Effects(cluster=1.0, dataset=0.3, draw=0.3, seed=0.1),
    "datasets": Effects(cluster=0.2, dataset=1.0, draw=0.3, seed=0.1),
    "draws": Effects(cluster=0.1, dataset=0.1, draw=1.0, seed=0.05),
    "seeds": Effects(cluster=0.2, dataset=0.2, draw=0.3, seed=1.0),
    "all alike": Effects(cluster=0.5, dataset=0.5, draw=0.5, seed=0.3),
    "cells": Effects(cluster=0.1, dataset=0.1, draw=0.1, cell=1.0),
}
CLUSTERS, SEEDS = (4, 6, 10, 20), (1, 3, 5)
BALANCED, UNBALANCED = (2,), (1, 4, 2, 1)
"""Datasets of each cluster, in turn."""
AT_ONCE = 1000
"""Trials that are worked out at once, for memory's sake."""


def tree(clusters: int, datasets: Sequence[int], draws: int = 3) -> list[Row]:
    """The rows of a tree; every second dataset of a cluster has two tasks."""
    return sorted(
        (f"c{c:02}", f"d{c:02}.{d}", f"t{c:02}.{d}.{t}", draw)
        for c in range(clusters)
        for d in range(datasets[c % len(datasets)])
        for t in range(1 + d % 2)
        for draw in range(draws)
    )


def simulate(rows: Sequence[Row], seeds: int, effects: Effects, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Values of every trial, shape (rows, seeds, trials); one training seed alone has no effect."""
    values = np.zeros((len(rows), seeds, trials))
    for depth, size in ((1, effects.cluster), (2, effects.dataset), (4, effects.draw)):
        nodes = sorted({row[:depth] for row in rows})
        values += size * rng.normal(size=(len(nodes), 1, trials))[[nodes.index(row[:depth]) for row in rows]]
    if seeds > 1:
        values += effects.seed * rng.normal(size=(1, seeds, trials)) + effects.cell * rng.normal(size=values.shape)
    return values


def coverage(design: Design, values: np.ndarray, truth: float = 0.0) -> float:
    """The share of trials whose 95% interval holds the truth."""
    pieces = np.array_split(values, -(-values.shape[2] // AT_ONCE), axis=2)
    bounds = [design.bounds(design.means(piece)) for piece in pieces]
    low, high = (np.concatenate(ends) for ends in zip(*bounds, strict=True))
    return float(np.mean((low <= truth) & (truth <= high)))


def measured(trials: int, resamples: int) -> Iterator[tuple[str, int, str, int, float]]:
    """Mixture, clusters, balance, seeds and the coverage of every design."""
    for clusters in CLUSTERS:
        for balance, datasets in (("balanced", BALANCED), ("unbalanced", UNBALANCED)):
            rows = tree(clusters, datasets)
            for seeds in SEEDS:
                design = make_design(rows, seeds, resamples)
                for name, effects in MIXTURES.items():
                    values = simulate(rows, seeds, effects, trials, np.random.default_rng([clusters, seeds, len(name), len(rows)]))
                    yield name, clusters, balance, seeds, coverage(design, values)


def answers(rows: Sequence[Row], query: int, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Paired differences of accuracy, shape (rows, 1, trials): tasks of every difficulty, one arm ahead by a margin of its cluster's."""
    tasks, clusters = sorted({row[:3] for row in rows}), sorted({row[0] for row in rows})
    margin = rng.normal(0.5, 0.5, size=(len(clusters), 1, trials))[[clusters.index(task[0]) for task in tasks]]
    ability = rng.normal(size=(len(tasks), query, trials)) + rng.normal(0, 1.5, size=(len(tasks), 1, trials))
    of_task = [tasks.index(row[:3]) for row in rows]
    right = [(ability + shift)[of_task] + rng.normal(size=(len(rows), query, trials)) > 0 for shift in (margin, 0)]
    return (right[0].astype(float) - right[1]).mean(1)[:, None]


def gaps(rows: Sequence[Row], query: int, trials: int, rng: np.random.Generator, bins: int = 10) -> np.ndarray:
    """Calibration gaps, shape (rows, bins, trials): confidence spread evenly, right less often than that by a share of its own per task."""
    confidence = rng.uniform(size=(len(rows), query, trials))
    honesty = np.clip(rng.normal(0.7, 0.15, size=(len(rows), 1, trials)), 0, 1)
    gap = confidence - (rng.uniform(size=confidence.shape) < confidence * honesty)
    inside = np.floor(confidence * bins).astype(int)
    return np.stack([(gap * (inside == number)).mean(1) for number in range(bins)], axis=1)


def answers_coverage(clusters: int, query: int, trials: int, resamples: int) -> float:
    rng = np.random.default_rng(0)
    rows = tree(clusters, UNBALANCED)
    truth = answers(tree(1, (1,), 1), 50, 100_000, rng).mean()
    return coverage(make_design(rows, 1, resamples), answers(rows, query, trials, rng), truth)


def calibration_coverage(clusters: int, query: int, trials: int, resamples: int) -> float:
    rng = np.random.default_rng(0)
    rows = tree(clusters, UNBALANCED, draws=1)
    truth = np.abs(gaps(tree(1, (1,), 1), 50, 100_000, rng).mean((0, 2))).sum()
    design = make_design(rows, 1, resamples)
    means = design.means(gaps(rows, query, trials, rng).reshape(len(rows), 1, -1)).reshape(len(design.rows), -1, trials)
    low, high = design.bounds(np.abs(means).sum(1))
    return float(np.mean((low <= truth) & (truth <= high)))


def normal_table(trials: int, resamples: int) -> Table:
    cells = {(name, *where): f"{100 * share:.1f}" for name, *where, share in measured(trials, resamples)}
    table = Table("clusters, tree, seeds", *MIXTURES, title="Coverage of 95% intervals, %, by what dominates")
    for where in sorted({tuple(where) for _, *where in cells}):
        table.add_row(" ".join(map(str, where)), *(cells[name, *where] for name in MIXTURES))
    return table


def other_table(trials: int, resamples: int) -> Table:
    table = Table("clusters", "query examples", "paired accuracy", "calibration error", title="Coverage of 95% intervals, %, not normal")
    for clusters in (4, 12):
        for query in (8, 16, 64):
            found = (measure(clusters, query, trials, resamples) for measure in (answers_coverage, calibration_coverage))
            table.add_row(str(clusters), str(query), *(f"{100 * share:.1f}" for share in found))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=2000)
    given = parser.parse_args(arguments)
    for table in (normal_table, other_table):
        Console(width=100).print(table(given.trials, given.resamples))


if __name__ == "__main__":
    main()
