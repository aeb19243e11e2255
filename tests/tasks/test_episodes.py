"""Episodes as pure functions, and what evaluation keeps apart from training."""

import random

import numpy as np
import pytest
import torch

from headstart.tasks.episodes import evaluation_draw, training_episode
from headstart.tasks.sources import open_suite
from headstart.tasks.task import SuiteError

SUITE = open_suite("builtin")


def episode(**options):
    return training_episode(SUITE, **{"seed": 0, "step": 5, "support": 4, "query": 6, **options})


def test_same_arguments_same_episode():
    assert episode() == episode()
    assert episode() != episode(step=6)
    assert episode() != episode(seed=1)


def test_ranks_take_the_slices_of_one_larger_rank():
    assert sum((episode(tasks=3, rank=rank) for rank in range(4)), ()) == episode(tasks=12)


def test_tasks_are_distinct_and_of_training():
    names = [draw.task.name for draw in episode(tasks=100)]
    assert len(set(names)) == 100
    assert set(names) <= set(SUITE.splits["meta_train"])


def test_support_and_query_never_meet():
    for draw in episode(tasks=20, minibatches=3):
        assert len(draw.query) == 6
        assert [len(batch) for batch in draw.support] == [4, 4, 4]
        assert not {example for batch in draw.support for example in batch} & set(draw.query)


def test_query_does_not_depend_on_the_number_of_minibatches():
    assert [draw.query for draw in episode(minibatches=0)] == [draw.query for draw in episode(minibatches=3)]


def test_evaluation_adapts_on_one_half_and_scores_on_the_other():
    task = SUITE.split("meta_test")[0]
    first, second = (evaluation_draw(task, draw=draw, support=8, query=20) for draw in (0, 1))
    assert set(first.support[0]) <= set(task.support_pool)
    assert first.query == second.query == task.query_pool[:20]
    assert first.support != second.support
    assert first == evaluation_draw(task, draw=0, support=8, query=20)


def test_drawing_leaves_the_global_generators_alone():
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    episode()
    evaluation_draw(SUITE.split("meta_test")[0], draw=0, support=8, query=20)
    assert (random.getstate(), str(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_asking_too_much_says_what_to_lower():
    with pytest.raises(SuiteError, match=r"lower suite\.tasks_per_step"):
        episode(tasks=200)
    with pytest.raises(SuiteError, match=r"lower suite\.support"):
        episode(support=500)
    with pytest.raises(SuiteError, match="fewer than the 500 shots"):
        evaluation_draw(SUITE.split("meta_test")[0], draw=0, support=500, query=1)
