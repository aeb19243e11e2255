"""Samplers: probabilities by definition, draws that follow them, and orders that depend on seed and step alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.tasks.episodes import training_episode
from headstart.tasks.samplers import step_order, task_weights
from headstart.tasks.task import Example, Task, TaskSuite

# cluster and number of examples of each task
TASKS = {"a1": ("a", 4), "a2": ("a", 16), "a3": ("a", 100), "b1": ("b", 4), "c1": ("c", 25), "c2": ("c", 1)}


def suite_of(tasks, origins=None, shares=None):
    made = {
        name: Task(name, "Do.", tuple(Example(str(number), "out") for number in range(size)), cluster)
        for name, (cluster, size) in tasks.items()
    }
    return TaskSuite("s", made, {"meta_train": tuple(made)}, "", origins or {}, shares or {})


SUITE = suite_of(TASKS)
SOURCES = {"a1": "x", "a2": "x", "b1": "x", "a3": "y", "c1": "y", "c2": "y"}
MIXED = suite_of(TASKS, SOURCES, {"x": 3.0, "y": 1.0})


def weights(suite, **options):
    tasks = suite.split("meta_train")
    return dict(zip((task.name for task in tasks), task_weights(suite, tasks, **options), strict=True))


@pytest.mark.parametrize(
    ("options", "relative"),
    [
        ({"sampler": "uniform"}, dict.fromkeys(TASKS, 1)),
        ({"sampler": "cluster"}, {"a1": 1 / 3, "a2": 1 / 3, "a3": 1 / 3, "b1": 1, "c1": 1 / 2, "c2": 1 / 2}),
        ({"sampler": "size"}, {"a1": 2, "a2": 4, "a3": 10, "b1": 2, "c1": 5, "c2": 1}),
        ({"sampler": "size", "alpha": 0.0}, dict.fromkeys(TASKS, 1)),
        ({"sampler": "size", "alpha": 1.0}, {name: size for name, (_, size) in TASKS.items()}),
    ],
)
def test_probabilities_are_those_of_the_definition(options, relative):
    total = sum(relative.values())
    assert weights(SUITE, **options) == pytest.approx({name: weight / total for name, weight in relative.items()})


def test_clusters_are_alike_unless_another_sampler_is_asked_for():
    assert weights(SUITE) == weights(SUITE, sampler="cluster")


@pytest.mark.parametrize("sampler", ["uniform", "cluster", "size"])
def test_sources_weigh_what_their_users_say_whatever_their_tasks(sampler):
    found = weights(MIXED, sampler=sampler)
    for source, share in (("x", 0.75), ("y", 0.25)):
        mine = {name: weight for name, weight in found.items() if SOURCES[name] == source}
        assert sum(mine.values()) == pytest.approx(share)
        alone = weights(suite_of({name: TASKS[name] for name in mine}), sampler=sampler)
        assert mine == pytest.approx({name: share * weight for name, weight in alone.items()})


def test_a_cluster_in_two_sources_is_one_in_each():
    assert weights(MIXED)["a1"] + weights(MIXED)["a2"] == pytest.approx(weights(MIXED)["b1"])


def test_sources_without_a_weight_are_alike():
    found = weights(suite_of(TASKS, SOURCES))
    assert sum(weight for name, weight in found.items() if SOURCES[name] == "x") == pytest.approx(0.5)


DRAWS = 6000


@pytest.mark.parametrize("suite", [SUITE, MIXED], ids=["one source", "two sources"])
@pytest.mark.parametrize("sampler", ["uniform", "cluster", "size"])
def test_first_draws_follow_the_probabilities(suite, sampler):
    """Each count within 4 standard deviations of a binomial's."""
    counts = Counter(step_order(suite, seed=7, step=step, sampler=sampler)[0].name for step in range(DRAWS))
    for name, probability in weights(suite, sampler=sampler).items():
        assert abs(counts[name] - DRAWS * probability) < 4 * np.sqrt(DRAWS * probability * (1 - probability))


def test_second_draws_follow_the_probabilities_among_those_that_are_left():
    orders = [step_order(SUITE, seed=7, step=step, sampler="size") for step in range(DRAWS)]
    seconds = Counter(order[1].name for order in orders if order[0].name == "a3")
    left = {name: weight for name, weight in weights(SUITE, sampler="size").items() if name != "a3"}
    count = sum(seconds.values())
    for name, weight in left.items():
        probability = weight / sum(left.values())
        assert abs(seconds[name] - count * probability) < 4 * np.sqrt(count * probability * (1 - probability))


@given(st.integers(0, 2**32), st.integers(0, 2**32), st.sampled_from(["uniform", "cluster", "size"]))
def test_an_order_has_every_task_once_and_is_the_same_again(seed, step, sampler):
    order = step_order(SUITE, seed=seed, step=step, sampler=sampler)
    assert sorted(task.name for task in order) == sorted(TASKS)
    assert order == step_order(SUITE, seed=seed, step=step, sampler=sampler)


def test_orders_differ_between_steps_and_seeds():
    orders = {tuple(task.name for task in step_order(SUITE, seed=seed, step=step)) for seed in range(5) for step in range(5)}
    assert len(orders) > 20


def test_held_out_tasks_are_never_drawn():
    held = replace(SUITE, splits={"meta_train": ("a1", "b1"), "meta_test": ("c1",)})
    assert {task.name for task in step_order(held, seed=0, step=0)} == {"a1", "b1"}


@pytest.mark.parametrize("sampler", ["uniform", "cluster", "size"])
def test_ranks_take_slices_of_the_steps_order(sampler):
    small = suite_of({name: (cluster, size + 4) for name, (cluster, size) in TASKS.items()}, SOURCES, {"x": 3.0, "y": 1.0})
    options = {"seed": 3, "step": 9, "sampler": sampler, "support": 2, "query": 2}
    parts = [training_episode(small, rank=rank, tasks=2, **options) for rank in range(3)]
    order = step_order(small, seed=3, step=9, sampler=sampler)
    assert [draw.task.name for part in parts for draw in part] == [task.name for task in order]
    assert sum(parts, ()) == training_episode(small, tasks=6, **options)
