"""Reading suites and single files: what is read, and every fault by file and line."""

import json
from pathlib import Path

import pytest

from headstart.tasks.sources import as_examples, first_of_each, open_suite, read_task
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example, SuiteError

POOL = Path(__file__).parents[2].parent / "shared" / "pool"


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    """A suite folder in the pool's form."""
    entry = {"name": "shout", "file": "tasks/shout.jsonl", "instruction": "Shout.", "cluster": "case", "labels": None, "dataset": "d"}
    label = {"name": "odd", "file": "tasks/odd.jsonl", "instruction": "Odd?", "cluster": "maths", "labels": ["yes", "no"]}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tasks.json").write_text(json.dumps([entry, label]))
    (tmp_path / "splits.json").write_text(json.dumps({"note": "text", "meta_train": ["shout"], "meta_validation": ["odd"]}))
    write_lines(tmp_path / "tasks" / "shout.jsonl", [{"input": "a", "output": "A"}, "", {"input": "b", "output": "B"}])
    write_lines(tmp_path / "tasks" / "odd.jsonl", [{"input": "1", "output": "yes"}, {"input": "2", "output": "no"}])
    return tmp_path


def test_folder_is_read(folder):
    suite = open_suite(str(folder))
    assert suite.splits == {"meta_train": ("shout",), "meta_validation": ("odd",)}
    assert suite.tasks["shout"].examples == (Example("a", "A"), Example("b", "B"))
    assert (suite.tasks["shout"].cluster, suite.tasks["shout"].dataset) == ("case", "d")
    assert suite.tasks["odd"].labels == ("yes", "no")


def rewrite(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"), [("tasks/shout.jsonl", "B", "C"), ("tasks/tasks.json", "Shout", "Cry"), ("splits.json", "meta_v", "v")]
)
def test_revision_tells_of_every_change(folder, file, old, new):
    before = open_suite(str(folder)).revision
    assert open_suite(str(folder)).revision == before
    rewrite(folder / file, old, new)
    assert open_suite(str(folder)).revision != before


FAULTS = {
    "no splits": (lambda folder: (folder / "splits.json").unlink(), "is no suite folder"),
    "no training split": (lambda folder: rewrite(folder / "splits.json", "meta_train", "train"), "no list `meta_train`"),
    "unknown task": (lambda folder: rewrite(folder / "splits.json", "shout", "scream"), "'scream', which the suite does not have"),
    "task twice": (lambda folder: rewrite(folder / "splits.json", '"odd"', '"odd", "shout"'), "a task is held out whole"),
    "broken index": (lambda folder: (folder / "tasks" / "tasks.json").write_text("{"), "tasks.json: not valid JSON"),
    "index without names": (
        lambda folder: rewrite(folder / "tasks" / "tasks.json", '"name": "odd"', '"n": 1'),
        "entry 2 is no JSON object",
    ),
    "index of another form": (lambda folder: (folder / "tasks" / "tasks.json").write_text("{}"), "expected a JSON list"),
    "no cluster": (lambda folder: rewrite(folder / "tasks" / "tasks.json", '"cluster": "maths"', '"c": 1'), "'odd' lacks 'cluster'"),
    "split of numbers": (lambda folder: rewrite(folder / "splits.json", '"odd"', "7"), "`meta_validation` must hold task names only"),
    "no such rows": (lambda folder: (folder / "tasks" / "odd.jsonl").unlink(), "'tasks/odd.jsonl', which is not there"),
    "broken row": (lambda folder: rewrite(folder / "tasks" / "shout.jsonl", '{"input": "b"', "{"), "line 3: not valid JSON"),
    "number": (
        lambda folder: rewrite(folder / "tasks" / "odd.jsonl", '"2"', "2"),
        "line 2: `input` is a number, not text; put it in quotes",
    ),
    "no output": (
        lambda folder: rewrite(folder / "tasks" / "odd.jsonl", '"output": "no"', '"answer": "no"'),
        "line 2: `output` is missing",
    ),
    "empty output": (lambda folder: rewrite(folder / "tasks" / "odd.jsonl", '"no"', '" "'), "line 2: `output` is empty"),
    "stray label": (
        lambda folder: rewrite(folder / "tasks" / "odd.jsonl", '"no"', '"maybe"'),
        "odd.jsonl, line 2: `output` 'maybe' is not among the labels of 'odd': yes, no",
    ),
    "no rows": (lambda folder: (folder / "tasks" / "odd.jsonl").write_text("\n"), "odd.jsonl: the file has no rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_a_folder_are_named(folder, fault):
    spoil, words = FAULTS[fault]
    spoil(folder)
    with pytest.raises(SuiteError, match=words):
        open_suite(str(folder))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"there is no suite .*nowhere': give `builtin`, a folder with splits.json and tasks.json"):
        open_suite(str(tmp_path / "nowhere"))


def test_json_lines_and_csv_read_alike(tmp_path):
    rows = [("Shout.", "a, b", "A, B"), ("Shout.", 'say "x"', "X")]
    lines = write_lines(tmp_path / "a.jsonl", [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows])
    table = tmp_path / "a.csv"
    table.write_text('\ufeffinstruction,input,output\nShout.,"a, b","A, B"\nShout.,"say ""x""",X\n', encoding="utf-8")
    assert read_task(lines) == read_task(table)
    assert read_task(lines).examples == tuple(Example(*row[1:]) for row in rows)
    assert read_task(lines).instruction == "Shout."


def test_repeated_inputs_keep_their_first_row(tmp_path):
    rows = [{"input": "a", "output": "1"}, {"input": "b", "output": "2"}, {"input": "a", "output": "3"}]
    assert read_task(write_lines(tmp_path / "a.jsonl", rows)).examples == (Example("a", "1"), Example("b", "2"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x", "cannot read '.txt'; give a .jsonl, .json, .csv, .tsv, .parquet file"),
        ("a.jsonl", "", "no rows"),
        ("a.jsonl", "[1]\n", "line 1: is a list; a row is a JSON object with"),
        ("a.csv", "input,output\na,b\nhello,a, b\n", "line 3: 3 cells, more than the 2 columns; put a cell that has commas"),
        ("a.csv", "input,output\na\n", "line 2: 1 cells, fewer than the 2 columns; fill the row up"),
        ("a.csv", "question,solution\na,b\n", "line 2: columns found: question, solution; rows need `input` and `output`"),
    ],
)
def test_faults_in_a_file_are_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(SuiteError, match=words):
        read_task(tmp_path / name)


@pytest.mark.skipif(not POOL.is_dir(), reason="the pool of real tasks does not lie beside this checkout")
def test_the_pool_is_read():
    suite = open_suite(str(POOL))
    assert len(suite.splits["meta_train"]) == 158
    clusters = {split: {task.cluster for task in suite.split(split)} for split in suite.splits}
    assert not clusters["meta_train"] & clusters["meta_validation"]
    assert not clusters["meta_train"] & clusters["meta_test"]


def test_line_separators_of_unicode_and_byte_order_marks_do_no_harm(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"input": "a\u2028b", "output": "c"}\r\n', encoding="utf-8")
    assert read_task(tmp_path / "a.jsonl").examples == (Example("a\u2028b", "c"),)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path, name):
    first = b'{"input": "a", "output": "b"}' if name == "a.jsonl" else b"input,output"
    (tmp_path / name).write_bytes(first + b"\n\xff\n")
    with pytest.raises(SuiteError, match=rf"{name}, line 2: not UTF-8"):
        read_task(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"a\.csv: no such file"):
        read_task(tmp_path / "a.csv")


def test_cells_may_hold_line_ends(tmp_path):
    (tmp_path / "a.csv").write_text('input,output\n"a\nb",c\n')
    assert read_task(tmp_path / "a.csv").examples == (Example("a\nb", "c"),)


def test_instructions_that_differ_go_in_front_of_their_inputs(tmp_path):
    rows = [{"instruction": "x", "input": "a", "output": "b"}, {"input": "c", "output": "d"}, {"instruction": "y", "output": "e"}]
    task = read_task(write_lines(tmp_path / "a.jsonl", rows))
    assert task.instruction == ""
    assert task.examples == (Example("x\na", "b"), Example("c", "d"), Example("y", "e"))


def test_columns_as_told_are_read(tmp_path):
    path = write_lines(tmp_path / "a.csv", ["q,a,a2", "one,two,three"])
    assert read_task(path, {"input": "q", "output": "a2"}).examples == (Example("one", "three"),)


def test_a_file_is_read_in_its_order_as_one_kind_without_labels(tmp_path):
    task = read_task(write_lines(tmp_path / "a.jsonl", [{"input": str(n), "output": "yes"} for n in range(9)]))
    assert (task.name, task.cluster, task.labels) == ("a", "user", ())
    assert [example.input for example in task.examples] == list(map(str, range(9)))


@pytest.mark.parametrize("form", [Example, lambda a, b: {"input": a, "output": b}, lambda a, b: {"prompt": a, "completion": b}])
def test_rows_from_python_may_have_any_shape(form):
    rows = [form("a", "1"), form("b", "2"), form("a ", "3")]
    assert as_examples(rows) == (Example("a", "1"), Example("b", "2"))
    assert first_of_each(map(Example, "aba", "123")) == (Example("a", "1"), Example("b", "2"))


def test_rows_from_python_are_numbered_in_what_is_told():
    with pytest.raises(SuiteError, match=r"^row 2: `output` is a number, not text; put it in quotes"):
        as_examples([{"input": "a", "output": "b"}, {"input": "c", "output": 4}])


def test_a_source_may_be_told_more_of(tmp_path):
    for name in ("qa_a", "qa_b", "nli_a", "sum_a"):
        write_lines(tmp_path / f"{name}.jsonl", [{"q": "a", "a": "b"}, {"q": "c", "a": "d"}])
    spec = SourceSpec(str(tmp_path), columns={"input": "q", "output": "a"}, cluster_pattern="^([a-z]+)_")
    suite = open_suite(spec)
    clusters = [{task.cluster for task in suite.split(split)} for split in ("meta_train", "meta_validation", "meta_test")]
    assert sorted(map(len, clusters)) == [1, 1, 1]
    assert set().union(*clusters) == {"qa", "nli", "sum"}


def test_what_a_source_is_filtered_by_holds(folder):
    suite = open_suite(SourceSpec(str(folder), exclude=("od*",)))
    assert (list(suite.tasks), suite.splits) == (["shout"], {"meta_train": ("shout",), "meta_validation": ()})
    assert suite.revision != open_suite(str(folder)).revision
    assert len(open_suite(SourceSpec(str(folder), max_examples=1)).tasks["odd"].examples) == 1
    with pytest.raises(SuiteError, match="exclude: the pattern 'even' matches none of the 2 tasks"):
        open_suite(SourceSpec(str(folder), exclude=("even",)))
