"""Making a suite fit a run."""

import json
from dataclasses import replace

import pytest
from tiny import CHAT_TEMPLATE, build_tokenizer

from headstart.tasks.prepare import Plan, leave_out_long, prepare, prepare_suite, spread
from headstart.tasks.render import Renderer
from headstart.tasks.samplers import task_weights
from headstart.tasks.sources import open_suite
from headstart.tasks.spec import SourceSpec
from headstart.tasks.store import EXAMPLES, read_store
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


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    """A suite's folder of two tasks of three examples each, one of them long."""
    entries = [{"name": name, "file": f"{name}.jsonl", "instruction": "Do.", "cluster": name, "labels": ["yes"]} for name in "ab"]
    for name in "ab":
        write(tmp_path / "one" / f"{name}.jsonl", [{"input": text, "output": "yes"} for text in ("one", "two", "long " * 100)])
    (tmp_path / "one" / "tasks.json").write_text(json.dumps(entries))
    (tmp_path / "one" / "splits.json").write_text(json.dumps({"meta_train": ["a"], "meta_test": ["b"]}))
    return tmp_path / "one"


@pytest.fixture
def files(tmp_path):
    """A folder of ten plain files."""
    for number in range(10):
        write(tmp_path / "two" / f"t{number}.jsonl", [{"input": f"i{n}", "output": f"o{number} {n}"} for n in range(number + 2)])
    return tmp_path / "two"


def prepared(*specs, tokenizer, regime="instructed", needed=1, seed=0):
    return prepare_suite(specs, regime, Renderer(tokenizer, 300), needed, seed)


def test_a_suite_is_opened_put_under_its_regime_and_cut(folder, tokenizer):
    suite, notes = prepared(SourceSpec(str(folder)), tokenizer=tokenizer, regime="house_rules", needed=2)
    # the outputs are all the same
    warned = "2 warnings on rows and tasks, such as repeated inputs left out; `headstart check` lists them"
    assert notes == [warned, *(f"{name}: 1 of 3 examples over 300 tokens left out" for name in "ab")]
    assert suite.splits == {"meta_train": ("a",), "meta_test": ("b",)}
    for task in suite.tasks.values():
        assert [example.input for example in task.examples] == ["one", "two"]
        assert task.instruction == ""
        assert task.labels != ("yes",)
        assert {example.output for example in task.examples} == set(task.labels)


def test_mixed_holds_every_task_both_ways_in_one_split(folder, tokenizer):
    suite, _ = prepared(SourceSpec(str(folder)), tokenizer=tokenizer, regime="mixed")
    assert suite.splits == {"meta_train": ("a", "a@house_rules"), "meta_test": ("b", "b@house_rules")}
    assert [suite.tasks[name].instruction for name in ("a", "a@house_rules")] == ["Do.", ""]
    assert suite.tasks["a"].labels == ("yes",) != suite.tasks["a@house_rules"].labels


def test_house_rules_are_drawn_by_the_seed(folder, tokenizer):
    labels = [
        prepared(SourceSpec(str(folder)), tokenizer=tokenizer, regime="house_rules", seed=seed)[0].tasks["a"].labels for seed in (0, 0, 1)
    ]
    assert labels[0] == labels[1] != labels[2]


def test_sources_are_put_together_with_their_weights(folder, files, tokenizer):
    suite, notes = prepared(SourceSpec(str(folder), weight=3.0), SourceSpec(str(files), min_examples=4), tokenizer=tokenizer)
    assert notes[0] == "two: 2 tasks left out, 2 by min_examples"
    assert suite.name == "one+two"
    assert set(suite.tasks) == {"one/a", "one/b", *(f"two/t{number}" for number in range(2, 10))}
    assert (suite.origin("one/a"), suite.origin("two/t5")) == ("one", "two")
    assert suite.shares == {"one": 3.0, "two": 1.0}
    assert {split: len(names) for split, names in suite.splits.items()} == {"meta_train": 1 + 6, "meta_validation": 1, "meta_test": 1 + 1}
    weights = dict(zip(suite.splits["meta_train"], task_weights(suite, suite.split("meta_train")), strict=True))
    assert weights["one/a"] == pytest.approx(0.75)
    assert sum(weights.values()) == pytest.approx(1)


def test_a_source_may_be_there_twice(files, tokenizer):
    suite, _ = prepared(SourceSpec(str(files), max_examples=2), SourceSpec(str(files), max_examples=3), tokenizer=tokenizer)
    assert (suite.origin("two/t9"), suite.origin("two#1/t9")) == ("two", "two#1")
    assert [len(suite.tasks[name].examples) for name in ("two/t9", "two#1/t9")] == [2, 3]


def test_a_source_alone_and_among_others_holds_out_the_same(folder, files, tokenizer):
    alone, _ = prepared(SourceSpec(str(files)), tokenizer=tokenizer)
    together, _ = prepared(SourceSpec(str(folder)), SourceSpec(str(files), max_examples=3), tokenizer=tokenizer)
    for split, names in alone.splits.items():
        assert tuple(f"two/{name}" for name in names) == tuple(name for name in together.splits[split] if name.startswith("two/"))


def test_examples_that_the_template_refuses_are_told_with_their_places(tmp_path, both_ways):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if messages[-1]['content'] == 'bad' %}{{ raise_exception('no bad answers') }}{% endif %}"
    write(tmp_path / "a.jsonl", [{"input": str(n), "output": "bad" if n in (2, 5) else f"good {n}"} for n in range(7)])
    seen = []

    def read(report):
        renderer = Renderer(tokenizer)
        plan = Plan.of([SourceSpec(str(tmp_path), splits={"meta_train": 1.0})], "instructed", renderer, 0)
        suite, _ = read_store(prepare(plan, renderer, report, lambda task, lengths: seen.append((task, lengths))))
        return suite.tasks["a"].examples

    good = both_ways(read, "no bad answers", "no bad answers")
    assert {example.output for example in good} == {f"good {n}" for n in (0, 1, 3, 4, 6)}
    ((task, lengths),) = seen
    assert [place.row for place in task.places] == [int(example.input) + 1 for example in task.task.examples]
    assert list(lengths) == [len(example.tokens.ids) for example in good]


def test_what_lies_in_part_is_prepared_anew(folder, tokenizer):
    """As after a machine went down before its disk had everything."""
    prepared(SourceSpec(str(folder)), tokenizer=tokenizer)
    path = Plan.of([SourceSpec(str(folder))], "instructed", Renderer(tokenizer), 0).folder / EXAMPLES
    path.write_bytes(path.read_bytes()[:100])
    again, _ = prepared(SourceSpec(str(folder)), tokenizer=tokenizer)
    assert list(again.tasks["a"].examples) == [Example("one", "yes"), Example("two", "yes")]


def test_the_builtin_suite_is_prepared(tokenizer):
    suite, _ = prepare_suite([SourceSpec("builtin")], "instructed", Renderer(tokenizer), 1)
    whole = open_suite("builtin")
    assert (suite.name, suite.revision, suite.splits) == ("builtin", whole.revision, whole.splits)
    assert all(list(suite.tasks[name].examples) == list(task.examples) for name, task in whole.tasks.items())
