"""Episodes as pure functions, and what evaluation keeps apart from training."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from headstart.tasks.episodes import Redrawn, evaluation_draw, shots_at, training_episode
from headstart.tasks.regimes import under_regime
from headstart.tasks.sources import open_suite
from headstart.tasks.task import SuiteError, TaskSuite

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


CODES, WORDING = Redrawn(codes=True), Redrawn(wording=True)
WORDINGS = ("Say whether it starts with a vowel.", "Vowel first?")


def mixed(toy_suite, seed=3):
    """The toy suite both ways, its classification among the training tasks and with other wordings."""
    reworded = replace(toy_suite.tasks["vowel"], paraphrases=WORDINGS)
    tasks = [version for task in [*toy_suite.tasks.values(), reworded] for version in under_regime(task, "mixed", seed)]
    names = tuple(dict.fromkeys(task.name for task in tasks))
    return TaskSuite("mixed", {task.name: task for task in tasks}, {"meta_train": names})


@pytest.fixture
def drawn(toy_suite):
    """Draws all tasks of the mixed toy suite, by name."""
    suite = mixed(toy_suite)

    def draw(step=0, **options):
        options = {"seed": 0, "tasks": 12, "support": 4, "query": 6, "minibatches": 2, **options}
        return {each.task.name: each for each in training_episode(suite, step=step, **options)}

    return draw


def inputs(draw):
    return [[example.input for example in batch] for batch in (*draw.support, draw.query)]


def test_codes_are_fresh_at_every_step_and_the_same_in_support_and_query(drawn, toy_suite):
    truth = {example.input: example.output for example in toy_suite.tasks["vowel"].examples}
    seen = set()
    for step in range(20):
        draw = drawn(step, redrawn=CODES)["vowel@house_rules"]
        assert draw.task.original_labels == ("yes", "no")
        code = dict(zip(("yes", "no"), draw.task.labels, strict=True))
        for example in [example for batch in (*draw.support, draw.query) for example in batch]:
            assert example.output == code[truth[example.input]]
        seen.add(draw.task.labels)
    assert len(seen) == 20


def test_only_what_is_under_house_rules_and_has_labels_gets_fresh_codes(drawn):
    plain, fresh = drawn(1), drawn(1, redrawn=CODES)
    assert plain.keys() == fresh.keys()
    assert {name for name in plain if plain[name] != fresh[name]} == {"vowel@house_rules"}


def test_examples_are_the_same_whatever_is_redrawn(drawn):
    plain = drawn(1)
    for redrawn in (CODES, WORDING, Redrawn(True, True)):
        assert {name: inputs(draw) for name, draw in drawn(1, redrawn=redrawn).items()} == {
            name: inputs(draw) for name, draw in plain.items()
        }


def test_what_is_redrawn_depends_on_seed_step_and_task_alone(drawn):
    both = Redrawn(True, True)
    assert drawn(2, redrawn=both) == drawn(2, redrawn=both)
    code = drawn(2, redrawn=both)["vowel@house_rules"].task.labels
    assert drawn(2, redrawn=both, seed=1)["vowel@house_rules"].task.labels != code
    # neither on the rank nor on what else is drawn
    alone = {}
    for rank in range(12):
        alone |= drawn(2, redrawn=both, tasks=1, rank=rank, support=3, minibatches=1)
    assert alone["vowel@house_rules"].task.labels == code
    assert {name: draw.task.instruction for name, draw in alone.items()} == {
        name: draw.task.instruction for name, draw in drawn(2, redrawn=both).items()
    }


def test_one_of_all_wordings_is_drawn_each_as_often(drawn, toy_suite):
    every = (toy_suite.tasks["vowel"].instruction, *WORDINGS)
    seen = Counter(drawn(step, redrawn=WORDING)["vowel"].task.instruction for step in range(300))
    assert set(seen) == set(every)
    assert min(seen.values()) > 70
    assert {drawn(step)["vowel"].task.instruction for step in range(9)} == {every[0]}
    assert drawn(0, redrawn=WORDING)["upper"].task.instruction == "Shout."


def test_evaluation_redraws_nothing(toy_suite):
    suite = mixed(toy_suite)
    for name in ("vowel", "vowel@house_rules"):
        for draw in range(3):
            assert evaluation_draw(suite.tasks[name], draw=draw, support=4, query=4).task is suite.tasks[name]


def test_numbers_of_shots_are_drawn_by_seed_and_step_each_as_often():
    def drawn(seed):
        return [shots_at((4, 8, 16), seed=seed, step=step) for step in range(600)]

    assert drawn(0) == drawn(0) != drawn(1)
    counts = Counter(drawn(0))
    assert set(counts) == {4, 8, 16}
    assert min(counts.values()) > 160
    assert {shots_at((5,), seed=0, step=step) for step in range(9)} == {5}


def test_other_than_the_suites_query_is_as_much_as_a_task_has():
    usual, more, fewer = (episode(wanted=wanted) for wanted in (None, 9, 2))
    for one, other, short in zip(usual, more, fewer, strict=True):
        assert one.task == other.task == short.task
        assert len(other.query) == min(9, len(one.task.examples) - 4)
        assert (other.query[: len(one.query)], short.query) == (one.query, one.query[:2])
        assert [len(batch) for batch in other.support] == [len(batch) for batch in one.support] == [4]
        assert not set(other.query) & set(other.support[0])
    (everything,) = episode(wanted=1000, tasks=1)
    assert len(everything.query) == len(everything.task.examples) - 4
