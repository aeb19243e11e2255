"""Tuning: on validation tasks alone, alike for every arm, with grids that widen where a winner lies at the edge."""

import ast
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from headstart.evaluation import tuning
from headstart.evaluation.design import Setting
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.protocol import run_piece
from headstart.evaluation.tuning import ValidationTasks, best, choose, tune
from headstart.tasks.task import TaskSuite

pytestmark = pytest.mark.usefixtures("one_thread")
SETTING = Setting("instructed", 4)


@pytest.fixture
def validation(toy_suite):
    return ValidationTasks(toy_suite, 1, SETTING)


class Untouchable:
    """A task that may not even be looked at."""

    def __getattribute__(self, name):
        raise AssertionError(f"tuning read {name} of a task that is not for tuning")


def test_tuning_reads_no_task_of_another_split(toy_suite, bench, protocol, arm_of):
    tasks = {name: task if name in toy_suite.splits["meta_validation"] else Untouchable() for name, task in toy_suite.tasks.items()}
    poisoned = TaskSuite("poisoned", tasks, toy_suite.splits)
    validation = ValidationTasks(poisoned, 8, SETTING)
    assert validation.names == ["vowel"]
    assert tune([arm_of(bench.passes.learner)], validation, protocol, bench)[3].keys() == {0.01}
    with pytest.raises(AssertionError, match="tuning read"):
        poisoned.tasks["twice"].examples  # noqa: B018


def test_there_is_one_way_to_validation_tasks_and_it_names_the_split(toy_suite):
    """`tune` takes nothing else, and the class takes a suite, a number and a setting: no list of tasks."""
    source = ast.parse(Path(tuning.__file__).read_text())
    splits = [
        node.args[0]
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("split", "splits")
    ]
    assert [ast.unparse(each) for each in splits] == ["VALIDATION"]
    assert tuning.VALIDATION == "meta_validation"
    assert "tasks" not in [argument.arg for argument in _method(source, "ValidationTasks", "__init__").args.args]
    annotation = next(each.annotation for each in _function(source, "tune").args.args if each.arg == "validation")
    assert ast.unparse(annotation) == "ValidationTasks"
    with pytest.raises(TypeError):
        ValidationTasks(toy_suite, 1, SETTING, tasks=())
    with pytest.raises(AttributeError):
        ValidationTasks(toy_suite, 1, SETTING).tasks = tuple(toy_suite.split("meta_test"))


def _function(tree, name):
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


def _method(tree, owner, name):
    return _function(next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner), name)


def test_too_few_support_examples_to_tune_on_is_an_error(toy_suite):
    with pytest.raises(EvaluationError, match="no task of meta_validation has 13 support examples"):
        ValidationTasks(toy_suite, 1, Setting("instructed", 13))


def test_a_candidates_loss_is_that_of_adapting_with_it(validation, bench, protocol, arm_of):
    two = replace(protocol, steps=(0, 1, 3), horizons=(1, 3))
    arm = arm_of(bench.passes.learner, (0.01,))
    grid = tune([arm], validation, two, bench)
    gone = run_piece(arm, {1: 0.01, 3: 0.01}, 0, two.episode(validation.tasks, 0), two, bench)
    loss = {record.step: record.loss for record in gone.records}
    assert grid == {1: {0.01: pytest.approx(loss[1], rel=1e-4)}, 3: {0.01: pytest.approx(loss[3], rel=1e-4)}}


def test_all_training_seeds_choose_together(validation, bench, protocol, arm_of):
    arms = [arm_of(bench.passes.learner, (0.01,), seed=seed) for seed in (0, 1)]
    apart = [tune([arm], validation, protocol, bench)[3][0.01] for arm in arms]
    assert tune(arms, validation, protocol, bench)[3][0.01] == pytest.approx(fmean(apart))
    assert apart[0] != apart[1]


def test_a_winner_at_the_edge_widens_the_grid_twice(validation, bench, protocol, arm_of):
    grid = tune([arm_of(bench.passes.learner, (1e-6, 2e-6, 4e-6))], validation, protocol, bench)
    assert sorted(grid[3]) == pytest.approx([1e-6, 2e-6, 4e-6, 8e-6, 1.6e-5])


def scripted(monkeypatch, loss):
    """Tuning where a candidate's loss at a horizon is a given function."""
    asked = []

    def losses(arms, candidate, horizons, *_):
        asked.append((candidate, tuple(horizons)))
        return {horizon: loss(candidate, horizon) for horizon in horizons}

    monkeypatch.setattr(tuning, "_losses", losses)
    return asked


def test_a_horizon_widens_its_own_grid(validation, bench, protocol, arm_of, monkeypatch):
    """The short horizon's best is at 16, past the grid; the long one's inside it."""
    asked = scripted(monkeypatch, lambda rate, horizon: abs(rate - (16 if horizon == 1 else 2)))
    two = replace(protocol, horizons=(1, 3))
    grid = tune([arm_of(bench.passes.learner, (1.0, 2.0, 4.0))], validation, two, bench)
    assert sorted(grid[1]) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert sorted(grid[3]) == [1.0, 2.0, 4.0]
    assert asked[3:] == [(8.0, (1,)), (16.0, (1,))]
    assert choose(grid) == {1: 16.0, 3: 2.0}


def test_both_ends_may_widen(validation, bench, protocol, arm_of, monkeypatch):
    scripted(monkeypatch, lambda rate, horizon: rate if horizon == 1 else -rate)
    grid = tune([arm_of(bench.passes.learner, (1.0, 2.0, 4.0))], validation, replace(protocol, horizons=(1, 3)), bench)
    assert sorted(grid[1]) == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert sorted(grid[3]) == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_one_candidate_has_no_spacing_to_widen_by(validation, bench, protocol, arm_of, monkeypatch):
    scripted(monkeypatch, lambda rate, horizon: rate)
    assert tune([arm_of(bench.passes.learner, (1.0,))], validation, protocol, bench) == {3: {1.0: 1.0}}


def test_of_equal_losses_the_lowest_candidate_wins():
    assert best({2.0: 1.0, 1.0: 1.0, 4.0: 3.0}) == 1.0


def test_a_diverging_candidate_loses(validation, bench, protocol, arm_of):
    grid = tune([arm_of(bench.passes.learner, (1e-3, 1e30))], validation, protocol, bench)
    assert choose(grid)[3] < 1
    assert max(grid[3].values()) <= 100
