"""From rows to tasks: repeats, labels, instructions that differ, orders that no run changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.tasks.problems import DataError, Place
from headstart.tasks.reading.shapes import Pair
from headstart.tasks.reading.source import (
    at_most,
    cluster_of,
    digest_files,
    in_drawn_order,
    make_task,
    noticed_labels,
    of_suite,
    require_cluster_pattern,
)
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example

FILE = Place("a.jsonl")


def pairs(*texts, instruction=""):
    return [Pair(instruction, Example(*pair), Place("a.jsonl", number)) for number, pair in enumerate(texts, start=1)]


def made(rows, **options):
    """A task of rows with all that was told of them."""
    told = []
    read = make_task("t", rows, told.append, **{"cluster": "c", "place": FILE, **options})
    return read, [(problem.level, str(problem)) for problem in told]


def test_one_instruction_is_the_tasks():
    read, told = made(pairs(("a", "b"), ("c", "d"), instruction="Do."))
    assert (read.task.instruction, read.task.examples, told) == ("Do.", (Example("a", "b"), Example("c", "d")), [])


def test_instructions_that_differ_go_in_front_of_their_inputs_and_render_the_same(tokenizer):
    rows = [*pairs(("a", "b"), instruction="Do."), *pairs(("a", "d"), ("", "f"), instruction="Don't."), *pairs(("g", "h"))]
    task = made(rows)[0].task
    assert task.instruction == ""
    assert [example.input for example in task.examples] == ["Do.\na", "Don't.\na", "Don't.", "g"]
    renderer = Renderer(tokenizer)
    before = [renderer.render(row.instruction, [row.example])[0] for row in rows]
    assert renderer.render("", task.examples) == before


def test_a_given_instruction_is_the_tasks_whatever_rows_say():
    assert made(pairs(("a", "b"), instruction="Do."), instruction="")[0].task.instruction == ""


def test_repeated_inputs_are_told_and_the_first_counts():
    read, told = made(pairs(("a", "1"), ("b", "2"), (" a ", "1"), ("a", "3")))
    assert read.task.examples == (Example("a", "1"), Example("b", "2"))
    assert [place.row for place in read.places] == [1, 2]
    assert told == [
        ("warning", "a.jsonl, line 3: the input of line 1 again; the first counts"),
        ("warning", "a.jsonl, line 4: the input of line 1 again with another output; the first counts"),
    ]


def test_the_same_question_in_another_chat_is_no_repeat():
    rows = [*pairs(("a", "1")), Pair("", Example("a", "2", (("user", "x"), ("assistant", "y"))), Place("a.jsonl", 2))]
    assert len(made(rows)[0].places) == 2


def test_outputs_that_are_no_labels_are_told(both_ways):
    rows = pairs(("a", "yes"), ("b", "maybe"), ("c", "no"), ("d", "perhaps"))
    options = {"cluster": "c", "place": FILE, "labels": ("yes", "no")}
    (read,) = both_ways(
        lambda report: [make_task("t", rows, report, **options)],
        "a.jsonl, line 2: `output` 'maybe' is not among the labels of 't': yes, no",
        "a.jsonl, line 4: `output` 'perhaps' is not among the labels of 't': yes, no",
    )
    assert [example.output for example in read.task.examples] == ["yes", "no"]
    assert [place.row for place in read.places] == [1, 3]


@pytest.mark.parametrize("labels", [("yes", "yes"), ("yes", "no "), ("yes", "")])
def test_labels_that_are_none_are_told(both_ways, labels):
    rows = pairs(("a", "yes"))
    told = f"a.jsonl: task 't' has the labels {list(labels)}; give each once, not empty, without white space around"
    assert both_ways(lambda report: [make_task("t", rows, report, cluster="c", place=FILE, labels=labels)], told) == [None]


def test_a_task_without_rows_is_told(both_ways):
    assert both_ways(
        lambda report: [make_task("t", [], report, cluster="c", place=FILE)],
        "a.jsonl: no row is left of task 't'; give it some, or take it out",
    ) == [None]


def test_a_single_output_is_worth_a_warning():
    assert made(pairs(("a", "x"), ("b", "x")))[1] == [
        ("warning", "a.jsonl: all 2 rows of 't' have the output 'x', so there is nothing to tell apart")
    ]
    assert made(pairs(("a", "x")))[1] == []


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ({"yes": 3, "no": 3}, ("no", "yes")),
        ({"yes": 3, "no": 2}, ()),
        ({"yes": 9}, ()),
        ({str(number): 3 for number in range(20)}, tuple(sorted(map(str, range(20))))),
        ({str(number): 3 for number in range(21)}, ()),
        ({"x" * 60: 3, "y": 3}, ("x" * 60, "y")),
        ({"x" * 61: 3, "y": 3}, ()),
    ],
)
def test_few_short_outputs_that_recur_are_labels(outputs, labels):
    assert noticed_labels(outputs) == labels


def test_labels_are_noticed_unless_told():
    rows = pairs(*((str(number), "yes" if number % 2 else "no") for number in range(6)))
    assert made(rows)[0].task.labels == ("no", "yes")
    assert made(rows, labels=())[0].task.labels == ()
    assert made(rows, labels=("yes", "no", "maybe"))[0].task.labels == ("yes", "no", "maybe")


ROWS = made(pairs(*((str(number), f"out {number}") for number in range(50))))[0]


def test_the_order_is_drawn_by_the_name_and_keeps_places():
    drawn = in_drawn_order(ROWS)
    assert drawn == in_drawn_order(ROWS)
    assert drawn.task.examples != ROWS.task.examples
    assert set(drawn.task.examples) == set(ROWS.task.examples)
    assert [ROWS.task.examples[place.row - 1] for place in drawn.places] == list(drawn.task.examples)
    other = ROWS._replace(task=replace(ROWS.task, name="u"))
    assert in_drawn_order(other).task.examples != drawn.task.examples


@given(st.integers(0, 60))
def test_at_most_so_many_are_drawn_once_in_their_order(most):
    few = at_most(ROWS, most or 1)
    rows = [place.row for place in few.places]
    assert len(rows) == min(most or 1, 50)
    assert rows == sorted(set(rows))
    assert [example.input for example in few.task.examples] == [str(row - 1) for row in rows]
    assert few == at_most(ROWS, most or 1)


def test_all_are_taken_where_there_is_no_limit():
    assert at_most(ROWS, None) == at_most(ROWS, 50) == ROWS
    # not the head, which may be sorted
    assert [place.row for place in at_most(ROWS, 10).places] != list(range(1, 11))


@pytest.mark.parametrize(
    ("pattern", "cluster", "warned"),
    [(None, "qa_trivia", 0), ("^([a-z]+)_", "qa", 0), ("^([0-9]+)_", "qa_trivia", 1), ("(x)?qa", "qa_trivia", 1)],
)
def test_a_cluster_is_found_in_a_tasks_name(pattern, cluster, warned):
    told = []
    assert cluster_of("qa_trivia", SourceSpec("x", cluster_pattern=pattern), told.append) == cluster
    assert [problem.level for problem in told] == ["warning"] * warned
    assert all("cluster_pattern finds nothing in the task's name 'qa_trivia'" in str(problem) for problem in told)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", r"cluster_pattern: '\(' is no regular expression \(missing \)"),
        ("^qa", r"cluster_pattern: '\^qa' has no group; put what names"),
    ],
)
def test_a_pattern_that_cannot_work_is_told(pattern, words):
    with pytest.raises(DataError, match=words):
        require_cluster_pattern(SourceSpec("x", cluster_pattern=pattern))


def test_a_digest_tells_of_contents_names_and_orders(tmp_path):
    for name, content in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(content)
    a, b, c = (tmp_path / name for name in "abc")
    assert digest_files([a, b]) == digest_files([a, b])
    assert len({digest_files(files, *more) for files, *more in ([(a, b)], [(b, a)], [(c, b)], [(a,)], [(a, b), "x"])}) == 5
    with pytest.raises(DataError, match="none: no such file"):
        digest_files([tmp_path / "none"])


def test_a_suite_in_memory_is_a_source(toy_suite):
    source = of_suite(toy_suite)
    read = list(source.read(lambda problem: pytest.fail(str(problem))))
    assert [one.task for one in read] == list(toy_suite.tasks.values())
    assert source.splits == toy_suite.splits
    assert str(read[0].places[1]) == "toy/upper, row 2"
