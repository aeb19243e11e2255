"""Macro-means by hand, the bootstrap against a slow one and against the truth, pairing, and what is refused."""

import itertools
import json
import random
from collections import defaultdict
from dataclasses import asdict, replace

import numpy as np
import pytest

from headstart.evaluation.statistics import (
    ONE_SEED_NOTE,
    Record,
    as_records,
    bootstrap_interval,
    bootstrap_means,
    macro_mean,
    paired_differences,
    summarise,
)


def record(loss, *, arm="meta", task="t", cluster="c", dataset="d", draw=0, seed=0, k=16, step=0, accuracy=0.5):
    return Record(arm, task, cluster, dataset, draw, seed, k, step, loss, accuracy)


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


def test_summary_mean_is_the_macro_mean_and_lies_in_its_interval():
    interval = summarise(unbalanced()).summary["meta"][0]["loss"]
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
    fast = bootstrap_means(records, "loss", resamples=3000, seed=3)
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
    assert bootstrap_means(many, "loss").std() == pytest.approx(bootstrap_means(few, "loss").std(), rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        records = tree(rng, shape=[1, 2, 3] * 4, spread={"cluster": 0.5, "dataset": 0.3, "draw": 0.2})
        interval = bootstrap_interval(records, "loss", resamples=300, seed=trial)
        covered += interval.low <= 2.0 <= interval.high
    assert 0.85 * 200 <= covered <= 0.99 * 200


def test_interval_is_the_percentile_interval():
    records = tree(np.random.default_rng(0), shape=[1, 2, 3], spread={"cluster": 1.0})
    means = bootstrap_means(records, "loss")
    wide, narrow = (bootstrap_interval(records, "loss", **level) for level in ({}, {"level": 0.5}))
    assert [wide.low, wide.high] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert [narrow.low, narrow.high] == pytest.approx(np.quantile(means, [0.25, 0.75]))


def test_tasks_of_a_dataset_are_not_resampled():
    records = [record(loss, task=str(loss)) for loss in (0.0, 1.0, 5.0)]
    assert bootstrap_means(records, "loss") == pytest.approx(2.0)


def test_bootstrap_is_a_function_of_its_seed_and_of_the_records_as_a_set():
    records = tree(np.random.default_rng(0), shape=[1, 2, 3], spread={"cluster": 1.0, "draw": 1.0}, seeds=2)
    shuffled = random.Random(0).sample(records, len(records))
    first = bootstrap_means(records, "loss", seed=5)
    np.testing.assert_array_equal(first, bootstrap_means(shuffled, "loss", seed=5))
    assert not np.array_equal(first, bootstrap_means(records, "loss", seed=6))
    assert len(first) == 2000


def test_summary_agrees_with_the_single_interval():
    records = tree(np.random.default_rng(0), shape=[1, 2, 3], spread={"cluster": 1.0}) + tree(
        np.random.default_rng(1), shape=[2, 2], spread={"cluster": 1.0}, step=5
    )
    summary = summarise(records, seed=4).summary["meta"]
    for step, metric in itertools.product((0, 5), ("loss", "accuracy")):
        assert summary[step][metric] == bootstrap_interval([r for r in records if r.step == step], metric, seed=4)


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


def test_pairing_takes_the_variance_between_tasks_out():
    result = summarise(two_arms(), pairs=[("meta", "multitask"), ("multitask", "meta")])
    alone, paired = result.summary["meta"][10]["loss"], result.pairs["meta-multitask"][10]["loss"]
    assert alone.high - alone.low > 1
    assert (paired.low, paired.mean, paired.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert result.pairs["multitask-meta"][10]["loss"].mean == pytest.approx(0.5)


def test_paired_interval_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(3)
    records = [replace(r, loss=r.loss + float(rng.normal())) for r in two_arms()]
    expected = bootstrap_interval(paired_differences(records, "meta", "multitask"), "loss")
    assert summarise(records, [("meta", "multitask")]).pairs["meta-multitask"][10]["loss"] == expected
    assert expected.low < expected.mean < expected.high


@pytest.mark.parametrize("change", [{"task": "x"}, {"draw": 9}, {"seed": 9}, {"step": 9}, {"k": 9}, {"cluster": "x"}])
def test_unmatched_pairs_raise(change):
    records = two_arms()
    records[-1] = replace(records[-1], **change)
    with pytest.raises(ValueError, match=r"'meta' and 'multitask' cannot be paired: 2 records"):
        paired_differences(records, "meta", "multitask")


def test_a_missing_partner_raises_from_the_summary_too():
    complete = [record(1.0, arm=arm, task=task) for arm in ("meta", "multitask") for task in "ab"]
    summarise(complete, [("meta", "multitask")])
    with pytest.raises(ValueError, match="1 records have no partner"):
        summarise(complete[:-1], [("meta", "multitask")])


def test_unknown_arm_and_repeated_records_raise():
    with pytest.raises(ValueError, match=r"no records of arm 'maml'; the arms are meta, multitask"):
        paired_differences(two_arms(), "maml", "multitask")
    with pytest.raises(ValueError, match="'meta' has 1 repeated"):
        paired_differences([*two_arms(), two_arms()[-1]], "meta", "multitask")


def test_json_form_is_exact():
    result = summarise(two_arms(), [("meta", "multitask")]).to_json()
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"summary", "pairs", "notes"}
    assert set(result["summary"]) == {"meta", "multitask"}
    assert set(result["pairs"]) == {"meta-multitask"}
    for curves in (*result["summary"].values(), *result["pairs"].values()):
        assert set(curves) == {"10"}
        assert set(curves["10"]) == {"loss", "accuracy"}
        assert all(set(interval) == {"mean", "low", "high"} for interval in curves["10"].values())


def test_notes_say_what_the_interval_leaves_out():
    records = tree(np.random.default_rng(0), shape=[1] * 6, spread={}, seeds=2)
    assert summarise(records).notes == []
    assert summarise([r for r in records if r.seed == 0]).notes == ["one seed: training variance not covered"] == [ONE_SEED_NOTE]
    assert summarise([r for r in records if r.cluster != "c0"]).notes == ["fewer than 6 clusters (5): intervals are too narrow"]


def test_mappings_are_records_too():
    rows = [{**asdict(r), "invalid_output": 0.0} for r in two_arms()]
    assert as_records(rows) == two_arms()
    assert summarise(rows, [("meta", "multitask")]) == summarise(two_arms(), [("meta", "multitask")])


def test_unusable_records_raise():
    row = asdict(record(1.0))
    with pytest.raises(ValueError, match="lacks draw, accuracy"):
        as_records([{key: value for key, value in row.items() if key not in ("draw", "accuracy")}])
    with pytest.raises(ValueError, match="no evaluation records"):
        summarise([])
    with pytest.raises(ValueError, match="loss is nan"):
        summarise([record(float("nan"))])
    with pytest.raises(ValueError, match="mix K = 4, 16"):
        summarise([record(1.0, k=4), record(1.0, k=16)])
    with pytest.raises(ValueError, match="one arm, K and step"):
        macro_mean([record(1.0, step=0), record(1.0, step=1)], "loss")


def test_incomplete_and_repeated_draws_raise():
    grid = [record(1.0, task=task, draw=draw, seed=seed) for task in "ab" for draw in (0, 1) for seed in (0, 1)]
    summarise(grid)
    with pytest.raises(ValueError, match=r"'b', 1, 1\)"):
        summarise(grid[:-1])
    with pytest.raises(ValueError, match="exactly one record"):
        summarise([*grid, grid[0]])
