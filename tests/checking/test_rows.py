"""A look at a file of rows: its shape, its faults with row and column, its sizes."""

import csv
import json
import os
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from headstart.adapting.data import Reading, read_job
from headstart.adapting.settings import Settings
from headstart.checking import rows as rows_module
from headstart.checking.check import check
from headstart.tasks.problems import Place
from headstart.tasks.render import Renderer
from headstart.tasks.task import SuiteError

NUMBERS = range(6)


def turn(role, content):
    return {"role": role, "content": content}


SHAPES = {
    "input/output (input from `input`, output from `output`)": lambda n: {"input": f"ask {n}", "output": f"say {n}"},
    "alpaca (instruction from `instruction`, input from `input`, output from `output`)": lambda n: {
        "instruction": "Do.",
        "input": f"ask {n}",
        "output": f"say {n}",
    },
    "instruction/output (input from `instruction`, output from `output`)": lambda n: {"instruction": f"ask {n}", "output": f"say {n}"},
    "prompt/completion (input from `prompt`, output from `completion`)": lambda n: {"prompt": f"ask {n}", "completion": f"say {n}"},
    "question/answer (input from `question`, output from `answer`)": lambda n: {"question": f"ask {n}", "answer": f"say {n}"},
    "text/label (input from `text`, label from `label`)": lambda n: {"text": f"ask {n}", "label": n},
    "messages (messages from `messages`)": lambda n: {"messages": [turn("user", f"ask {n}"), turn("assistant", f"say {n}")]},
}


@pytest.fixture
def write(tmp_path):
    """Writes rows as JSON lines; text as it is."""

    def build(*rows, name="mine.jsonl"):
        path = tmp_path / name
        path.write_text("".join(row if isinstance(row, str) else f"{json.dumps(row)}\n" for row in rows))
        return path

    return build


def pair(number, **more):
    return {"input": f"ask {number}", "output": f"say {number}", **more}


def told(findings, level="error"):
    return [str(problem) for problem in findings.problems if problem.level == level]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_shown(shape, look, write):
    findings = look(write(*map(SHAPES[shape], NUMBERS)))
    assert findings.problems == []
    assert findings.kind == "file"
    assert findings.facts["rows"]["read_as"] == shape
    assert findings.facts["rows"]["examples"] == len(NUMBERS)
    assert findings.facts["rows"]["instruction"] == ("Do." if shape.startswith("alpaca") else "")
    assert sum(findings.facts["lengths"]["examples"]) == len(NUMBERS)


def test_every_fault_has_its_row_and_column(look, write):
    faulty = [pair(0), {"input": "a"}, pair(1, output=3), '{"input": \n', pair(2), pair(3, input=None), pair(4, output="\t"), "[1]\n"]
    path = write(*faulty)
    findings = look(path)
    assert [(problem.place.row, problem.column) for problem in findings.problems if problem.level == "error"] == [
        (2, "output"),
        (3, "output"),
        (4, None),
        (6, "input"),
        (7, "output"),
        (8, None),
    ]
    assert {problem.place.file for problem in findings.problems} == {str(path)}
    # the rest is looked at all the same
    assert findings.facts["rows"]["examples"] == 2


def test_rows_of_a_spreadsheet_are_told_by_the_line_they_begin_in(look, tmp_path):
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("input", "output"), ("one\nand a half", "1.5"), ("two", ""), ("three", "3")])
    (problem,) = look(path).problems
    assert (problem.place, problem.column) == (Place(str(path), 4), "output")


def test_rows_over_the_limit_are_counted_and_the_first_is_named(look, write):
    long = {"input": "long " * 40, "output": "x"}
    findings = look(write(pair(0), pair(1), long, pair(2), {**long, "output": "y", "input": "longer " * 40}), max_length=150)
    (problem,) = findings.problems
    assert (problem.level, problem.place.row) == ("error", 3)
    assert problem.text.startswith("2 of 5 rows take more than 150 tokens with their answer, this one first")
    assert findings.facts["lengths"]["over"] == 2


def test_the_limit_is_the_users(look, write):
    path = write(pair(0), {"input": "long " * 200, "output": "x"})
    assert told(look(path)) != []
    assert told(look(path, max_length=2000)) == []


def test_outputs_that_are_all_the_same_are_an_error_as_adapting_refuses_them(look, write):
    findings = look(write(*(pair(number, output="same") for number in NUMBERS)))
    (error,) = told(findings)
    assert "all 6 rows of 'mine' have the output 'same'" in error
    assert findings.facts["rows"]["labels"] == []


def test_labels_are_noticed(look, write):
    findings = look(write(*(pair(number, output=("no", "yes")[number % 2]) for number in NUMBERS)))
    assert findings.facts["rows"]["labels"] == ["no", "yes"]


def test_repeated_and_nearly_repeated_inputs_are_told(look, write):
    words = " ".join(f"word{number}" for number in range(30))
    findings = look(write(pair(0), pair(1, input=words), pair(2, input="ask 0"), pair(3, input=f"{words} more")))
    (warning,), (note,) = told(findings, "warning"), told(findings, "note")
    assert "line 3: the input of line 1 again with another output; the first counts" in warning
    assert "line 4: 1 input nearly repeats another, as this one that of line 2" in note


def test_columns_are_as_the_user_says(look, write):
    path = write(*({"frage": f"ask {number}", "antwort": f"say {number}"} for number in NUMBERS))
    (error,) = told(look(path))
    assert "columns found: frage, antwort" in error
    assert "--columns input=NAME,output=NAME" in error
    findings = look(path, columns={"input": "frage", "output": "antwort"})
    assert findings.problems == []
    assert findings.facts["rows"]["read_as"] == "columns as given (input from `frage`, output from `antwort`)"
    (error,) = told(look(path, columns={"input": "frage", "output": "answer"}))
    assert "there is no column 'answer'" in error


def test_turns_are_all_or_the_last(look, write):
    chat = [turn("user", "one"), turn("assistant", "1"), turn("user", "two"), turn("assistant", "2")]
    path = write({"messages": chat}, {"messages": [turn("user", "three"), *chat[1:]]})
    assert look(path).facts["rows"]["examples"] == 4
    assert look(path, turns="last").facts["rows"]["examples"] == 2


def test_examples_that_the_template_refuses_are_told_with_their_rows(tiny_folder, write, tmp_path, monkeypatch):
    """And the rest is measured."""
    real = rows_module.Renderer.measure

    def measure(renderer, instruction, examples):
        if any(one.input == "ask 1" for one in examples):
            raise SuiteError("the chat template refuses it")
        return real(renderer, instruction, examples)

    monkeypatch.setattr(rows_module.Renderer, "measure", measure)
    spec = rows_module.BaseSpec("test/tiny", str(tiny_folder))
    findings = check(write(*map(pair, range(3))), base=spec)
    assert told(findings) == [f"{tmp_path / 'mine.jsonl'}, line 2: the chat template refuses it"]
    assert findings.facts["rows"]["examples"] == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "the file has no rows"), ("[]", "the file looks like one JSON list"), ('{"input": "a"}\n', "`output` is missing")],
)
def test_a_file_without_examples_is_one_error(look, write, content, words):
    findings = look(write(content))
    assert findings.errors == len(findings.problems) == 1
    assert words in told(findings)[0]
    assert findings.facts == {}


def test_a_base_that_is_not_there_and_faulty_rows_are_told_together(write, tmp_path):
    path = write(pair(0), {"input": "a"})
    errors = told(check(path, base=rows_module.BaseSpec("test/tiny", str(tmp_path / "gone"))))
    assert len(errors) == 2
    assert "there is no folder" in errors[0]
    assert "line 2" in errors[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(look, write):
    path = write(pair(0))
    path.chmod(0)
    (error,) = told(look(path))
    assert "no permission to read it" in error


def test_of_a_classification_a_row_is_as_long_as_its_longest_label_makes_it(look, write):
    """As adapting ranks every label."""
    path = write(*(pair(number, output=("no", "yes " * 10)[number % 2]) for number in NUMBERS))
    lengths = look(path, max_length=2000).facts["lengths"]
    assert lengths["median"] == lengths["longest"]
    (error,) = told(look(path, max_length=lengths["longest"] - 1))
    assert "6 of 6 rows take more than" in error


TEXTS = st.one_of(st.sampled_from(["", " ", "a", "A", "long " * 30, "\ud800", "nan"]), st.text(max_size=6))
GOOD = st.integers(0, 9).map(lambda number: pair(number, output=f"say {number % 3}"))
ANY = st.one_of(
    st.fixed_dictionaries({"input": TEXTS, "output": TEXTS}, optional={"instruction": TEXTS}),
    st.fixed_dictionaries({"messages": st.lists(st.builds(turn, st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=4)}),
    st.fixed_dictionaries({"input": st.one_of(st.none(), st.integers(), TEXTS)}, optional={"output": TEXTS}),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.one_of(st.lists(GOOD, max_size=6), st.lists(st.one_of(GOOD, ANY), max_size=6)))
def test_check_finds_an_error_exactly_where_adapting_refuses_the_file(rows, write, look, tokenizer):
    path = write(*rows)
    findings = look(path, max_length=200)
    event("errors" if findings.errors else "none")
    with pytest.raises(SuiteError) if findings.errors else nullcontext():
        job = read_job(path, Reading(), Settings(), Renderer(tokenizer, 200))
        assert (len(job.rows), job.task.labels) == (findings.facts["rows"]["examples"], tuple(findings.facts["rows"]["labels"]))
