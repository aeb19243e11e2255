"""Means by task and cluster: datasets count the same, constant arms come from step 0."""

import copy

import pytest
from evaluation.report.synthetic import make_results

from headstart.evaluation.report.breakdown import by_cluster, by_task, step_of


@pytest.fixture
def results():
    made = copy.deepcopy(make_results(arms=("zero_shot", "multitask", "meta_adamw"), tasks=3, draws=1, seeds=(0, 1), steps=(0, 10)))
    for record in made["records"]:
        adapted = record["step"] == 10 and record["arm"] == "meta_adamw"
        record["loss"] = int(record["task"][-1]) + (0.5 if adapted else 1.0) + record["seed"]
    # two of the three tasks share a dataset
    made["tasks"]["task_01"]["dataset"] = "dataset_0"
    return made


def test_a_task_is_the_mean_over_its_draws_and_seeds(results):
    rows = by_task(results, results["settings"][0], 10)
    assert [row.name for row in rows] == ["task_00", "task_01", "task_02"]
    assert [row.means["meta_adamw"]["loss"] for row in rows] == [1.0, 2.0, 3.0]
    assert [row.means["zero_shot"]["loss"] for row in rows] == [1.5, 2.5, 3.5]
    assert rows[0].difference("meta_adamw", "multitask", "loss") == -0.5


def test_a_cluster_is_the_mean_over_its_datasets(results):
    (cluster,) = by_cluster(results, by_task(results, results["settings"][0], 10))
    assert cluster.tasks == ("task_00", "task_01", "task_02")
    assert cluster.means["meta_adamw"]["loss"] == ((1.0 + 2.0) / 2 + 3.0) / 2


def test_an_arm_without_records_of_a_task_is_absent_there(results):
    results["records"] = [record for record in results["records"] if (record["arm"], record["task"]) != ("multitask", "task_02")]
    *_, row = by_task(results, results["settings"][0], 10)
    assert "multitask" not in row.means
    assert row.difference("meta_adamw", "multitask", "loss") is None
    (cluster,) = by_cluster(results, by_task(results, results["settings"][0], 10))
    assert cluster.means["multitask"]["loss"] == (1.5 + 2.5) / 2


def test_settings_are_apart(results):
    for record in results["records"]:
        if record["regime"] == "house_rules":
            record["loss"] = 100.0
    first, second = (by_task(results, setting, 10)[0].means["meta_adamw"]["loss"] for setting in results["settings"])
    assert (first, second) == (1.0, 100.0)


def test_the_step_is_the_primary_one_or_the_last(results):
    assert step_of(results["settings"][0], 10) == 10
    assert step_of(results["settings"][0], 5) == 10
