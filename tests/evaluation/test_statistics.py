"""Macro-means by hand, the bootstrap against a slow one, intervals against exact ones, pairing, notes, and what is refused."""

import itertools
import math
import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation.records import Record
from headstart.evaluation.statistics import (
    ONE_SEED_NOTE,
    Interval,
    macro_mean,
    macro_weights,
    make_design,
    notes,
    paired_differences,
    t_quantile,
)


def record(loss, *, arm="meta", task="t", cluster="c", dataset="d", draw=0, seed=0, k=16, step=0, accuracy=0.5):
    return Record(arm, task, cluster, dataset, "instructed", k, draw, seed, step, loss, accuracy, invalid=0.0, examples=16)


def tree(rng, *, shape, spread, seeds=1, draws=2, arm="meta", step=0):
    """Records over clusters of `shape` datasets each, every second dataset with two tasks, and a normal effect on each level."""
    seed_effects = rng.normal(0, spread.get("seed", 0.0), seeds)
    records = []
    for c, datasets in enumerate(shape):
        cluster_effect = rng.normal(0, spread.get("cluster", 0.0))
        for d in range(datasets):
            dataset_effect = rng.normal(0, spread.get("dataset", 0.0))
            for t, draw in itertools.product(range(1 + d % 2), range(draws)):
                effect = cluster_effect + dataset_effect + rng.normal(0, spread.get("draw", 0.0))
                for seed in range(seeds):
                    loss = float(2.0 + effect + seed_effects[seed])
                    where = {"task": f"t{c}.{d}.{t}", "cluster": f"c{c}", "dataset": f"d{c}.{d}"}
                    records.append(record(loss, arm=arm, draw=draw, seed=seed, step=step, accuracy=loss / 10, **where))
    return records


def unbalanced():
    """Cluster a: dataset p (task 1: losses 1 and 3; task 2: 8), dataset q (task 3: 0); cluster b: one loss of 10."""
    return [
        record(1.0, cluster="a", dataset="p", task="1", draw=0, accuracy=0.0),
        record(3.0, cluster="a", dataset="p", task="1", draw=1, accuracy=1.0),
        record(8.0, cluster="a", dataset="p", task="2", accuracy=1.0),
        record(0.0, cluster="a", dataset="q", task="3", accuracy=0.25),
        record(10.0, cluster="b", dataset="r", task="4", accuracy=0.0),
    ]


def test_macro_mean_of_unbalanced_clusters_by_hand():
    # task 1 = 2, dataset p = (2 + 8) / 2 = 5, cluster a = (5 + 0) / 2 = 2.5, all = (2.5 + 10) / 2
    assert macro_mean(unbalanced(), "loss") == pytest.approx(6.25)
    # task 1 = 1/2, dataset p = 3/4, cluster a = (3/4 + 1/4) / 2 = 1/2, all = 1/4
    assert macro_mean(unbalanced(), "accuracy") == pytest.approx(0.25)


def test_macro_mean_averages_seeds_inside_the_task():
    records = [record(1.0, task="1", seed=0), record(5.0, task="1", seed=1), record(6.0, task="2", seed=0), record(8.0, task="2", seed=1)]
    assert macro_mean(records, "loss") == pytest.approx((3 + 7) / 2)


def test_equal_names_in_different_clusters_are_different_tasks():
    records = [record(0.0, cluster="a"), record(0.0, cluster="a", draw=1), record(3.0, cluster="b")]
    assert macro_mean(records, "loss") == pytest.approx(1.5)


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, unique=True))
def test_macro_weights_are_the_macro_mean(numbers):
    rows = sorted((f"c{c}", f"d{c}{d}", f"t{c}{d}{t}", draw) for c, d, t, draw in numbers)
    losses = [float(n * n % 7) for n in range(len(rows))]
    records = [record(loss, cluster=c, dataset=d, task=t, draw=draw) for loss, (c, d, t, draw) in zip(losses, rows, strict=True)]
    weights = macro_weights(rows)
    assert weights.sum() == pytest.approx(1)
    assert weights @ losses == pytest.approx(macro_mean(records, "loss"))


def rows_of(records):
    return sorted({(r.cluster, r.dataset, r.task, r.draw) for r in records})


def replicated(records, resamples=2000, seed=0):
    """The design of the records and the replicates of their mean loss."""
    rows, seeds = rows_of(records), sorted({r.seed for r in records})
    losses = {(r.cluster, r.dataset, r.task, r.draw, r.seed): r.loss for r in records}
    design = make_design(rows, len(seeds), resamples, seed)
    values = np.array([[[losses[(*row, one)]] for one in seeds] for row in rows])
    return design, design.means(values)[:, 0]


def interval_of(records, **kwargs):
    design, replicates = replicated(records, **kwargs)
    return design.interval(replicates)


def bootstrap_means(records, resamples=2000, seed=0):
    return replicated(records, resamples, seed)[1][-resamples:]


def test_an_interval_is_about_the_macro_mean():
    interval = interval_of(unbalanced())
    assert interval.mean == pytest.approx(6.25)
    assert interval.low < interval.mean < interval.high


def slow_bootstrap_means(records, resamples, seed):
    """The bootstrap as one would say it aloud: nested loops over a nested dictionary."""
    generator = random.Random(seed)
    nested = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(dict))))
    for r in records:
        nested[r.cluster][r.dataset][r.task][r.draw][r.seed] = r.loss
    seeds = sorted({r.seed for r in records})

    def choices(population):
        return generator.choices(list(population), k=len(population))

    def mean(values):
        return sum(values) / len(values)

    means = []
    for _ in range(resamples):
        drawn_seeds = choices(seeds)
        clusters = []
        for cluster in choices(nested.values()):
            datasets = []
            for dataset in choices(cluster.values()):
                tasks = [[draw[s] for draw in choices(task.values()) for s in drawn_seeds] for task in dataset.values()]
                datasets.append(mean([mean(task) for task in tasks]))
            clusters.append(mean(datasets))
        means.append(mean(clusters))
    return np.array(means)


@pytest.mark.parametrize("level", ["cluster", "dataset", "draw", "seed", "all"])
def test_bootstrap_agrees_with_a_slow_one_in_distribution(level):
    spread = {name: 1.0 for name in ("cluster", "dataset", "draw", "seed") if level in (name, "all")}
    records = tree(np.random.default_rng(1), shape=[1, 2, 3, 1, 4], spread=spread, seeds=3, draws=3)
    slow = slow_bootstrap_means(records, 3000, seed=2)
    fast = bootstrap_means(records, resamples=3000, seed=3)
    assert fast.shape == (3000,)
    assert slow.std() > 0.05
    assert abs(fast.mean() - slow.mean()) < 0.1 * slow.std()
    assert fast.std() == pytest.approx(slow.std(), rel=0.07)
    if level != "seed":  # three seeds give ten different means, whose quantiles jump
        quantiles = [0.025, 0.25, 0.5, 0.75, 0.975]
        np.testing.assert_allclose(np.quantile(fast, quantiles), np.quantile(slow, quantiles), atol=0.2 * slow.std())
    else:
        assert {round(value, 9) for value in fast} == {round(value, 9) for value in slow}


def test_training_variance_does_not_shrink_with_the_number_of_tasks():
    few, many = (tree(np.random.default_rng(0), shape=shape, spread={"seed": 1.0}, seeds=3) for shape in ([1], [2] * 20))
    assert bootstrap_means(many).std() == pytest.approx(bootstrap_means(few).std(), rel=0.1)


def normal_interval(values, freedom):
    """Student's interval about a mean."""
    half = float(t_quantile(0.95, freedom)) * np.std(values, ddof=1) / math.sqrt(len(values))
    return np.mean(values) - half, np.mean(values) + half


@pytest.mark.parametrize("of", [{"cluster": str}, {"dataset": str}, {"draw": int}, {"seed": int}])
def test_an_interval_over_one_level_is_as_wide_as_student_s(of):
    """Of 12 evenly spread values; the bootstrap's quantiles are close to the normal's then."""
    ((level, cast),) = of.items()
    values = np.linspace(-1, 1, 12)
    records = [record(float(value), **{level: cast(n)}) for n, value in enumerate(values)]
    interval = interval_of([replace(r, task=f"t{r.cluster}{r.dataset}") for r in records], resamples=20000)
    assert (interval.low, interval.high) == pytest.approx(normal_interval(values, 11), abs=0.02)


def test_lower_levels_are_in_the_spread_of_clusters_once():
    """Effects of draws alone: the standard error is that of independent cluster means, though draws are resampled below them too."""
    records = tree(np.random.default_rng(0), shape=[2] * 30, spread={"draw": 1.0}, draws=4)
    means = [macro_mean([r for r in records if r.cluster == cluster], "loss") for cluster in sorted({r.cluster for r in records})]
    interval = interval_of(records)
    low, high = normal_interval(means, 29)
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.05)


def test_three_seeds_add_their_variance_with_their_few_degrees_of_freedom():
    records = tree(np.random.default_rng(0), shape=[1] * 8, spread={}, seeds=3)
    records = [replace(r, loss=[0.0, 1.0, 2.0][r.seed]) for r in records]
    interval = interval_of(records)
    # standard error 1 / sqrt(3), t of 2 degrees 4.303; resamples reach the outermost seed at 2.5%, at 1 = 1.5 standard deviations of theirs
    assert interval.high - 1 == pytest.approx(4.303 / math.sqrt(3) * (1 / (math.sqrt(2) / 3)) / 1.96, rel=0.03)
    assert interval.low == pytest.approx(2 - interval.high, abs=0.05)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (np.inf, 1.9600)]
)
def test_t_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(0.95, freedom) == pytest.approx(expected, abs=3e-4)


def test_t_quantiles_at_another_level():
    assert t_quantile(0.8, np.array([1, 4])) == pytest.approx([3.0777, 1.5332], abs=3e-4)


def test_narrower_levels_lie_inside():
    design, replicates = replicated(tree(np.random.default_rng(0), shape=[1, 2, 3, 1], spread={"cluster": 1.0}))
    (low, high), (inner_low, inner_high) = design.bounds(replicates), design.bounds(replicates, level=0.5)
    assert low < inner_low < replicates[0] < inner_high < high


def test_limits_cut_an_interval():
    design, replicates = replicated(unbalanced())
    assert design.interval(replicates, (0.0, 10.0)) == Interval(pytest.approx(6.25), 0.0, 10.0)


def test_what_does_not_vary_has_no_width():
    interval = interval_of(tree(np.random.default_rng(0), shape=[1, 2, 1], spread={}, seeds=2))
    assert (interval.low, interval.mean, interval.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_bias_of_the_resamples_does_not_move_the_interval():
    """As calibration errors have it, which resampling only makes larger."""
    design, replicates = replicated(unbalanced(), resamples=500)
    biased = np.concatenate([replicates[:-500], replicates[-500:] + 1.0])
    assert design.bounds(biased) == pytest.approx(design.bounds(replicates))


def test_many_numbers_at_once_have_the_bounds_of_each():
    design, first = replicated(unbalanced())
    both = np.stack([first, first**2], axis=1)
    np.testing.assert_allclose(np.array(design.bounds(both))[:, 1], design.bounds(first**2))


def test_tasks_of_a_dataset_are_not_resampled():
    records = [record(loss, task=str(loss)) for loss in (0.0, 1.0, 5.0)]
    assert bootstrap_means(records) == pytest.approx(2.0)


def test_bootstrap_is_a_function_of_its_seed_and_of_the_records_as_a_set():
    records = tree(np.random.default_rng(0), shape=[1, 2, 3], spread={"cluster": 1.0, "draw": 1.0}, seeds=2)
    shuffled = random.Random(0).sample(records, len(records))
    first = bootstrap_means(records, seed=5)
    np.testing.assert_array_equal(first, bootstrap_means(shuffled, seed=5))
    assert not np.array_equal(first, bootstrap_means(records, seed=6))
    assert len(first) == 2000


def two_arms(shift=0.5):
    """Arm `meta` is below `multitask` by exactly `shift` in loss, while tasks differ by far more."""
    multitask = tree(np.random.default_rng(0), shape=[1, 2, 3, 1], spread={"cluster": 3.0}, seeds=2, arm="multitask", step=10)
    return multitask + [replace(r, arm="meta", loss=r.loss - shift, accuracy=r.accuracy + 0.25) for r in reversed(multitask)]


def test_paired_differences_subtract_second_from_first():
    differences = paired_differences(two_arms(), "meta", "multitask")
    assert len(differences) == len(two_arms()) // 2
    assert {r.arm for r in differences} == {"meta-multitask"}
    assert [r.loss for r in differences] == pytest.approx([-0.5] * len(differences))
    assert [r.accuracy for r in differences] == pytest.approx([0.25] * len(differences))


@pytest.mark.parametrize("change", [{"task": "x"}, {"draw": 9}, {"seed": 9}, {"step": 9}, {"k": 9}, {"cluster": "x"}])
def test_unmatched_pairs_raise(change):
    records = two_arms()
    records[-1] = replace(records[-1], **change)
    with pytest.raises(ValueError, match=r"'meta' and 'multitask' cannot be paired: 2 records"):
        paired_differences(records, "meta", "multitask")


def test_unknown_arm_and_repeated_records_raise():
    with pytest.raises(ValueError, match=r"no records of arm 'maml'; the arms are meta, multitask"):
        paired_differences(two_arms(), "maml", "multitask")
    with pytest.raises(ValueError, match="'meta' has 1 repeated"):
        paired_differences([*two_arms(), two_arms()[-1]], "meta", "multitask")


def test_notes_say_what_the_interval_leaves_out():
    records = tree(np.random.default_rng(0), shape=[2] * 6, spread={}, seeds=2)
    assert notes(records) == []
    assert notes([r for r in records if r.seed == 0]) == ["one seed: training variance not covered"] == [ONE_SEED_NOTE]
    (few,) = notes([r for r in records if r.cluster != "c0"])
    assert few.startswith("fewer than 6 clusters (5): intervals are wide")


@pytest.mark.parametrize(
    ("kept", "units"),
    [({}, "2 datasets"), ({"dataset": "d0.0"}, "2 support draws"), ({"dataset": "d0.0", "draw": 0}, "training seeds alone")],
)
def test_notes_say_what_one_cluster_goes_over(kept, units):
    records = tree(np.random.default_rng(0), shape=[2], spread={}, seeds=2)
    records = [r for r in records if all(getattr(r, key) == value for key, value in kept.items())]
    assert notes(records) == [f"one cluster: intervals go over its {units}; variance between kinds of tasks not covered"]


def test_macro_means_of_several_series_raise():
    with pytest.raises(ValueError, match="one arm, regime, K and step"):
        macro_mean([record(1.0, step=0), record(1.0, step=1)], "loss")
    with pytest.raises(ValueError, match="not of none"):
        macro_mean([], "loss")
