"""How long examples may be where they are measured, apart from training."""

from dataclasses import replace

import pytest

from headstart.evaluation import campaign as campaign_module
from headstart.evaluation import run as evaluation_run
from headstart.evaluation.contenders import read_contenders
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.plan import Plan, Wishes
from headstart.tasks.task import Example, SuiteError

pytestmark = pytest.mark.usefixtures("one_thread")
LONG, WITHIN = 600, 300
"""Letters of inputs that are too long for training and of those that are not; a letter is a token, and training takes 512 of these."""


@pytest.fixture
def toy_suite(toy_suite):
    """Two validation tasks, so that one is left to be measured on; these have examples of one length, the training tasks of the other."""
    splits = {**toy_suite.splits, "meta_validation": ("vowel", "sorted"), "meta_train": ("upper", "title", "reverse")}
    longer = {
        name: replace(task, examples=(*task.examples, *(Example(letter * count, task.examples[0].output) for letter in "qz")))
        for split, count in (("meta_train", WITHIN), ("meta_validation", LONG))
        for name, task in ((name, toy_suite.tasks[name]) for name in splits[split])
    }
    return replace(toy_suite, splits=splits, tasks={**toy_suite.tasks, **longer})


@pytest.fixture
def planned(run_folder):
    """Plans an evaluation of the toy run with the house rules too."""

    def plan(*overrides):
        overrides = ("evaluation.regimes=[instructed, house_rules]", *overrides)
        return Plan.make(read_contenders([run_folder / "adapter"]), Wishes(overrides=overrides))

    return plan


def counts(tasks):
    return {task.name: len(task.examples) for task in tasks}


def test_examples_are_as_long_as_in_training_unless_told_otherwise(planned):
    plan = planned()
    assert plan.renderer.max_length == 512
    assert [counts(each.measured) for each in plan.conditions] == [{"sorted": 24}] * 2
    assert [counts(each.validation.tasks) for each in plan.conditions] == [{"vowel": 24}] * 2


def test_longer_examples_are_measured_and_tuned_on_where_that_is_wanted(planned):
    plan = planned(f"evaluation.max_length={LONG + 200}")
    assert plan.renderer.max_length == LONG + 200
    assert [counts(each.measured) for each in plan.conditions] == [{"sorted": 26}] * 2
    assert [counts(each.validation.tasks) for each in plan.conditions] == [{"vowel": 26}] * 2


def test_what_was_trained_on_is_looked_for_whole_where_less_is_measured(planned):
    plan = planned(f"evaluation.max_length={WITHIN}")
    assert counts(plan.suite.split("meta_train")) == {"upper": 24, "title": 24, "reverse": 24}
    assert counts(plan.training) == {"upper": 26, "title": 26, "reverse": 26}


def test_a_limit_that_leaves_nothing_says_what_to_raise(planned):
    with pytest.raises(SuiteError, match=r"or evaluation\.max_length where that is set"):
        planned("evaluation.max_length=9")


def test_what_was_measured_under_another_limit_is_measured_anew(run_folder, quiet, monkeypatch):
    ran, real = [], campaign_module.run_piece
    monkeypatch.setattr(campaign_module, "run_piece", lambda arm, *rest: ran.append(arm.name) or real(arm, *rest))
    for overrides, runs in (([], 1), ([], 1), (["evaluation.max_length=400"], 2)):
        evaluation_run.evaluate(run_folder / "adapter", arms=["zero_shot"], overrides=overrides, console=quiet)
        assert len(ran) == runs


def test_a_limit_beyond_the_bases_positions_is_refused(run_folder, quiet):
    with pytest.raises(EvaluationError, match=r"evaluation\.max_length is 4096, but test/tiny has positions for 2048 tokens; lower it"):
        evaluation_run.evaluate(run_folder / "adapter", overrides=["evaluation.max_length=4096"], console=quiet)
