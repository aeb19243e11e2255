"""Making a suite fit a run."""

import json
from dataclasses import replace

import pytest

from headstart.tasks.prepare import leave_out_long, prepare_suite, spread
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


def test_a_labelled_example_must_fit_with_every_label(toy_suite, tokenizer):
    task = toy_suite.tasks["vowel"]
    wordy = replace(task, labels=(*task.labels, "x" * 400))
    renderer = Renderer(tokenizer, 300)
    assert renderer.fitting(task.instruction, task.examples) == list(task.examples)
    with pytest.raises(SuiteError, match="no task of 'meta_validation' is left"):
        leave_out_long(replace(toy_suite, tasks={**toy_suite.tasks, "vowel": wordy}), renderer, 1)


def test_a_suite_is_opened_put_under_its_regime_and_cut(tmp_path, tokenizer):
    entries = [{"name": name, "file": f"{name}.jsonl", "instruction": "Do.", "cluster": name, "labels": ["yes"]} for name in "ab"]
    (tmp_path / "tasks.json").write_text(json.dumps(entries))
    (tmp_path / "splits.json").write_text(json.dumps({"meta_train": ["a"], "meta_test": ["b"]}))
    for name in "ab":
        rows = ({"input": text, "output": "yes"} for text in ("one", "two", "long " * 100))
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    suite, notes = prepare_suite(str(tmp_path), "house_rules", Renderer(tokenizer, 300), 2)
    assert len(notes) == 2
    for task in suite.tasks.values():
        assert [example.input for example in task.examples] == ["one", "two"]
        assert task.instruction == ""
        assert task.labels != ("yes",)
