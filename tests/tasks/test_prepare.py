"""Making a suite fit a run."""

from dataclasses import replace

import pytest

from headstart.tasks.prepare import leave_out_long, spread
from headstart.tasks.render import Renderer
from headstart.tasks.task import Example, SuiteError


def test_nothing_is_left_out_of_a_suite_that_fits(toy_suite, tokenizer):
    suite, notes = leave_out_long(toy_suite, Renderer(tokenizer), 24)
    assert suite.tasks == toy_suite.tasks
    assert notes == []


def test_long_examples_go_and_are_counted(toy_suite, tokenizer):
    task = toy_suite.tasks["upper"]
    longer = replace(task, examples=(*task.examples, Example("long", "x" * 400)))
    suite, notes = leave_out_long(replace(toy_suite, tasks={**toy_suite.tasks, "upper": longer}), Renderer(tokenizer, 300), 24)
    assert suite.tasks["upper"] == task
    assert notes == ["upper: 1 of 25 examples over 300 tokens left out"]


def test_a_task_left_with_too_little_goes_with_a_note(toy_suite, tokenizer):
    task = toy_suite.tasks["upper"]
    short = replace(task, examples=task.examples[:10])
    suite, notes = leave_out_long(replace(toy_suite, tasks={**toy_suite.tasks, "upper": short}), Renderer(tokenizer), 24)
    assert "upper" not in suite.tasks
    assert "upper" not in suite.splits["meta_train"]
    assert notes == ["upper: left out, its 10 examples are fewer than the 24 that an episode takes"]


def test_a_split_without_tasks_is_refused(toy_suite, tokenizer):
    with pytest.raises(SuiteError, match="lower"):
        leave_out_long(toy_suite, Renderer(tokenizer), 25)


def test_spread_takes_clusters_in_turn(toy_suite):
    tasks = toy_suite.split("meta_train")
    assert [task.name for task in spread(tasks, 3)] == ["upper", "reverse", "title"]
    assert len(spread(tasks, None)) == len(tasks)
