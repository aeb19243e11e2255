"""Super-NaturalInstructions in its own layout: what a task becomes, what is held out, and every fault in one pass."""

import json

import pytest

from headstart.tasks.prepare import prepare_suite
from headstart.tasks.problems import DataError, refuse
from headstart.tasks.reading.natural_instructions import looks_like_it, read_natural_instructions
from headstart.tasks.reading.opening import source_kind
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example

KINDS = [f"Kind {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
TEST_KINDS = KINDS[:4]


def task_file(kind, number=0, instances=8, languages=("English", "English"), licence="CC0"):
    """A task as the repository writes it."""
    return {
        "Contributors": ["Somebody"],
        "Source": [f"source of {kind}"],
        "URL": ["https://example.org"],
        "Categories": [kind],
        "Reasoning": ["Some"],
        "Definition": [f"Do what {kind} asks.", f"Number {number}."],
        "Input_language": [languages[0]],
        "Output_language": [languages[1]],
        "Instruction_language": ["English"],
        "Domains": ["Fiction"],
        "Positive Examples": [{"input": f"good {n}", "output": f"answer {n}", "explanation": "Because."} for n in range(2)],
        "Negative Examples": [{"input": "bad", "output": "wrong", "explanation": "Not so."}],
        "Instances": [
            {"id": f"task{number}-{n}", "input": f"in {n}", "output": [f"out {number} {n}", "another right one"]} for n in range(instances)
        ],
        "Instance License": [licence],
    }


@pytest.fixture
def clone(tmp_path):
    """A tree of two tasks a category, as the repository lays it out."""
    (tmp_path / "tasks").mkdir()
    names = {kind: [f"task{10 * at + n:03}_{kind[-1].lower()}" for n in range(2)] for at, kind in enumerate(KINDS)}
    for kind, own in names.items():
        for number, name in enumerate(own):
            french = ("French", "English") if kind == KINDS[5] else ("English", "English")
            write_task(tmp_path, name, task_file(kind, number, languages=french, licence="MIT" if kind == KINDS[6] else "CC0"))
    (tmp_path / "tasks" / "README.md").write_text("Tasks.")
    train = [name for kind, own in names.items() if kind not in TEST_KINDS for name in own]
    write_split(tmp_path, "default", train, [name for kind in TEST_KINDS for name in names[kind]])
    write_split(tmp_path, "xlingual", train[:4], train[-2:])
    return tmp_path


def write_task(clone, name, content):
    (clone / "tasks" / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content, indent=4))


def write_split(clone, split_set, train, test):
    folder = clone / "splits" / split_set
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_tasks.txt").write_text("\n".join(train) + "\n")
    (folder / "test_tasks.txt").write_text("\n".join(test) + "\n")


def read(clone, report=refuse, **options):
    source = read_natural_instructions(SourceSpec(str(clone), **options), report)
    return {one.task.name: one.task for one in source.read(report)}


def prepared(clone, tokenizer, **options):
    return prepare_suite([SourceSpec(str(clone), **options)], "instructed", Renderer(tokenizer), 1)


def test_the_layout_is_seen(clone, tmp_path):
    assert looks_like_it(clone)
    assert source_kind(SourceSpec(str(clone))) == "natural_instructions"
    assert not looks_like_it(tmp_path / "tasks")


def test_a_task_is_its_definition_and_its_examples(clone):
    task = read(clone)["task070_h"]
    assert task.instruction == "Do what Kind H asks. Number 0."
    assert set(task.examples) == {Example(f"good {n}", f"answer {n}") for n in range(2)} | {
        Example(f"in {n}", f"out 0 {n}") for n in range(8)
    }
    assert (task.cluster, task.dataset, task.language, task.licence) == ("Kind H", "source of Kind H", "English", "CC0")
    assert read(clone)["task050_f"].language == "French, English"


def test_instances_are_in_a_drawn_order(clone):
    inputs = [example.input for example in read(clone)["task070_h"].examples]
    assert inputs != sorted(inputs)
    assert inputs == [example.input for example in read(clone)["task070_h"].examples]


def test_validation_is_held_out_by_category(clone, tokenizer):
    suite, notes = prepared(clone, tokenizer)
    clusters = {split: {task.cluster for task in suite.split(split)} for split in suite.splits}
    assert notes == []
    assert clusters["meta_test"] == set(TEST_KINDS)
    # a tenth of the 22 categories that are trained on
    assert len(clusters["meta_validation"]) == 2
    assert len(clusters["meta_train"]) == 20
    assert clusters["meta_train"] | clusters["meta_validation"] | clusters["meta_test"] == set(KINDS)
    assert sum(map(len, suite.splits.values())) == len(suite.tasks) == 52


def test_another_set_of_splits_may_be_named(clone, tokenizer):
    suite, _ = prepared(clone, tokenizer, split_set="xlingual")
    assert {split: len(names) for split, names in suite.splits.items()} == {"meta_train": 2, "meta_validation": 2, "meta_test": 2}
    with pytest.raises(DataError, match=r"split_set: no other/train_tasks.txt; there are default, xlingual"):
        read(clone, split_set="other")


@pytest.mark.parametrize(
    ("options", "kinds", "note"),
    [
        ({"languages": ("English",)}, set(KINDS) - {KINDS[5]}, "2 tasks left out, 2 by languages"),
        ({"languages": ("English", "French")}, set(KINDS), None),
        ({"licences": ("CC0",)}, set(KINDS) - {KINDS[6]}, "2 tasks left out, 2 by licences"),
        ({"clusters": tuple(KINDS[2:9])}, set(KINDS[2:9]), "38 tasks left out, 38 by clusters"),
        ({"min_examples": 10}, set(KINDS), None),
    ],
)
def test_tasks_are_filtered(clone, tokenizer, options, kinds, note):
    suite, notes = prepared(clone, tokenizer, **options)
    assert {task.cluster for task in suite.tasks.values()} == kinds
    assert notes == ([f"{clone.name}: {note}"] if note else [])


def test_filters_that_leave_nothing_are_told(clone, tokenizer):
    with pytest.raises(DataError, match=r"no task is left: all were left out \(52 by min_examples\)"):
        prepared(clone, tokenizer, min_examples=11)


def test_the_same_examples_are_taken_every_time(clone, tokenizer, own_caches):
    suite, _ = prepared(clone, tokenizer, max_examples=4)
    few = {name: list(task.examples) for name, task in suite.tasks.items()}
    again, _ = prepare_suite([SourceSpec(str(clone), max_examples=4)], "house_rules", Renderer(tokenizer), 1)
    assert {len(examples) for examples in few.values()} == {4}
    assert few == {name: list(task.examples) for name, task in again.tasks.items()}
    assert len({tuple(example.input for example in examples) for examples in few.values()}) > 40
    whole = read(clone)
    assert all(set(few[name]) < set(whole[name].examples) for name in whole)


def test_all_faults_are_told_in_one_pass(clone, both_ways):
    spoiled = task_file(KINDS[7])
    spoiled["Positive Examples"][1] = "text"
    spoiled["Instances"][2]["output"] = []
    spoiled["Instances"][3]["output"] = [" "]
    spoiled["Instances"][4] = {"id": "x", "output": ["y"]}
    spoiled["Instances"][5]["output"] = [7]
    spoiled["Instances"][6]["input"] = spoiled["Instances"][0]["input"]
    write_task(clone, "task070_h", spoiled)
    write_task(clone, "task071_h", "{")
    write_task(clone, "task080_i", [])
    write_task(clone, "task081_i", {**task_file(KINDS[8]), "Definition": {"en": "x"}})
    write_task(clone, "task090_j", {**task_file(KINDS[9]), "Instances": "none"})
    write_task(clone, "task091_j", {**task_file(KINDS[9]), "Instances": [], "Positive Examples": []})
    good = both_ways(
        lambda report: read_natural_instructions(SourceSpec(str(clone)), report).read(report),
        "task070_h.json, Positive Examples, row 2: is text; a row is a JSON object with `input` and `output`",
        "task070_h.json, Instances, row 5: `input` is missing; columns found: id, output",
        "task070_h.json, Instances, row 6: `output` is a number, not text; put it in quotes",
        "task071_h.json: not valid JSON",
        "task080_i.json: expected a JSON object of one task, found a list",
        "task081_i.json: `Definition` is an object, not text or a list of texts",
        "task090_j.json: `Instances` is text, not a list",
        "task091_j.json: no row is left of task 'task091_j'; give it some, or take it out",
    )
    assert len(good) == 52 - 5
    assert len(next(read for read in good if read.task.name == "task070_h").places) == 10 - 5 - 1


def test_instances_without_an_answer_are_left_out_and_stop_nobody(clone):
    """Nobody can mend 1,600 published tasks."""
    content = task_file(KINDS[7])
    content["Instances"][2]["output"], content["Instances"][3]["output"] = [], [" "]
    write_task(clone, "task070_h", content)
    whole, told = read(clone)["task070_h"], []
    assert read(clone, told.append)["task070_h"] == whole
    assert [(problem.level, str(problem)) for problem in told] == [
        ("warning", f"{clone}/tasks/task070_h.json, Instances, row {row}: `output` is empty; the row is left out") for row in (3, 4)
    ]
    assert len(whole.examples) == 10 - 2


def test_repeats_among_examples_and_instances_are_told_apart(clone):
    content = task_file(KINDS[7])
    content["Instances"][3]["input"] = content["Positive Examples"][1]["input"]
    write_task(clone, "task070_h", content)
    told = []
    read(clone, told.append)
    assert [(problem.level, str(problem)) for problem in told] == [
        ("warning", f"{clone}/tasks/task070_h.json, Instances, row 4: the input of row 2 again with another output; the first counts")
    ]


def test_names_without_tasks_and_in_both_lists_are_told(clone, both_ways):
    train = ["task070_h", "task071_h", "task080_i.json", "gone", "task071_h"]
    write_split(clone, "default", train, ["task071_h", "task000_a", "lost"])
    good = both_ways(
        lambda report: read_natural_instructions(SourceSpec(str(clone)), report).read(report),
        "splits/default: names the task 'gone', which is not in tasks/; fetch it, or take it out",
        "splits/default: names the task 'lost', which is not in tasks/",
        "splits/default: the task 'task071_h' is in train_tasks.txt and in test_tasks.txt; a task is held out whole",
    )
    assert {one.task.name for one in good} == {"task070_h", "task071_h", "task080_i", "task000_a"}
    splits = read_natural_instructions(SourceSpec(str(clone)), lambda problem: None).splits
    assert splits == {"meta_train": ("task070_h", "task080_i"), "meta_test": ("task071_h", "task000_a")}


@pytest.mark.parametrize("file", ["tasks/task070_h.json", "splits/default/train_tasks.txt"])
def test_the_digest_tells_of_every_file(clone, file):
    def revision():
        return read_natural_instructions(SourceSpec(str(clone)), refuse).revision

    before = revision()
    (clone / "tasks" / "stray.json").write_text("{")
    assert revision() == before
    (clone / file).write_text((clone / file).read_text() + "\n")
    assert revision() != before
