"""Intervals hold the truth about as often as they say, whatever dominates and however few the units."""

from pathlib import Path

import numpy as np
import pytest

from headstart.evaluation.statistics import make_design

TRIALS, RESAMPLES = 4000, 1000


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    import bench_coverage

    return bench_coverage


@pytest.mark.parametrize("dominant", ["clusters", "datasets", "draws", "seeds", "all alike"])
@pytest.mark.parametrize(
    ("clusters", "datasets", "seeds"),
    [(4, "BALANCED", 3), (4, "UNBALANCED", 1), (6, "UNBALANCED", 5), (10, "BALANCED", 1), (20, "BALANCED", 3)],
)
def test_normal_effects(bench, clusters, datasets, seeds, dominant):
    rows = bench.tree(clusters, getattr(bench, datasets), draws=2)
    values = bench.simulate(rows, seeds, bench.MIXTURES[dominant], TRIALS, np.random.default_rng([clusters, len(dominant)]))
    assert 0.93 <= bench.coverage(make_design(rows, seeds, RESAMPLES), values) <= 0.97


def test_noise_of_each_row_under_each_seed_is_not_counted_twice(bench):
    rows = bench.tree(10, bench.BALANCED, draws=2)
    values = bench.simulate(rows, 3, bench.Effects(cell=1.0), TRIALS, np.random.default_rng(0))
    assert 0.93 <= bench.coverage(make_design(rows, 3, RESAMPLES), values) <= 0.975


@pytest.mark.parametrize("level", ["dataset", "draw"])
def test_one_cluster_goes_over_its_datasets_and_one_dataset_over_its_draws(bench, level):
    rows = [("c", f"d{n}", f"t{n}", 0) if level == "dataset" else ("c", "d", "t", n) for n in range(5)]
    values = bench.simulate(rows, 1, bench.Effects(**{level: 1.0}), TRIALS, np.random.default_rng(0))
    assert 0.93 <= bench.coverage(make_design(rows, 1, RESAMPLES), values) <= 0.97


def test_a_truth_one_standard_error_away_is_covered_less(bench):
    rows = bench.tree(10, bench.BALANCED, draws=2)
    effects = bench.Effects(cluster=1.0)
    values = bench.simulate(rows, 1, effects, TRIALS, np.random.default_rng(0))
    assert bench.coverage(make_design(rows, 1, RESAMPLES), values, truth=1 / np.sqrt(10)) < 0.9


def test_paired_accuracies_of_few_answers(bench):
    assert 0.92 <= bench.answers_coverage(clusters=4, query=8, trials=1000, resamples=500) <= 0.97


def test_calibration_errors(bench):
    assert 0.93 <= bench.calibration_coverage(clusters=12, query=16, trials=1000, resamples=500) <= 0.98
