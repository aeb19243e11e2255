"""Folders in the form of a suite: what is read, and all faults of splits, index and rows in one pass."""

import json

import pytest

from headstart.tasks.problems import DataError, refuse
from headstart.tasks.reading.folder import read_folder
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


ENTRIES = [
    {"name": "shout", "file": "tasks/shout.jsonl", "instruction": "Shout.", "cluster": "case", "labels": None, "dataset": "d"},
    {
        **{"name": "odd", "file": "tasks/odd.jsonl", "instruction": "Odd?", "cluster": "maths", "labels": ["yes", "no"], "license": "MIT"},
        **{"data_terms": "unknown", "instruction_variants": ["Is it odd? ", "Odd?", "Is it odd?", "Uneven?"]},
    },
    {"name": "twice", "file": "twice.csv", "instruction": None, "cluster": "copy", "language": "English", "licence": "CC0"},
    {"name": "apart", "file": "twice.csv", "cluster": "copy"},
]
SPLITS = {"note": "text", "meta_train": ["shout", "twice"], "meta_validation": ["odd"]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks").mkdir()
    write_index(tmp_path, ENTRIES)
    write_splits(tmp_path, SPLITS)
    write_lines(tmp_path / "tasks" / "shout.jsonl", [{"input": "a", "output": "A"}, "", {"input": "b", "output": "B"}])
    write_lines(tmp_path / "tasks" / "odd.jsonl", [{"input": "1", "output": "yes"}, {"input": "2", "output": "no"}])
    write_lines(tmp_path / "tasks" / "twice.csv", ["instruction,input,output", "Say it twice.,a,a a"])
    return tmp_path


def write_index(folder, entries):
    (folder / "tasks" / "tasks.json").write_text(json.dumps(entries))


def write_splits(folder, splits):
    (folder / "splits.json").write_text(json.dumps(splits))


def reader(folder):
    def read(report):
        return read_folder(SourceSpec(str(folder)), report).read(report)

    return read


def test_tasks_are_read_with_all_that_is_said_of_them(folder):
    source = read_folder(SourceSpec(str(folder)), refuse)
    shout, odd, twice = (read.task for read in source.read(refuse))
    assert source.splits == {"meta_train": ("shout", "twice"), "meta_validation": ("odd",)}
    assert source.name == folder.name
    assert shout.examples == (Example("a", "A"), Example("b", "B"))
    assert (shout.instruction, shout.cluster, shout.dataset, shout.labels) == ("Shout.", "case", "d", ())
    assert (odd.labels, odd.licence, odd.dataset) == (("yes", "no"), "MIT", "odd")
    assert (odd.data_terms, odd.paraphrases) == ("unknown", ("Is it odd?", "Uneven?"))
    assert (twice.instruction, twice.language, twice.licence) == ("Say it twice.", "English", "CC0")
    assert (twice.data_terms, twice.paraphrases) == ("", ())


def test_the_index_may_lie_beside_the_splits(folder):
    before = [read.task for read in reader(folder)(refuse)]
    (folder / "tasks" / "tasks.json").rename(folder / "tasks.json")
    write_lines(folder / "twice.csv", ["instruction,input,output", "Say it twice.,a,a a"])
    assert [read.task for read in reader(folder)(refuse)] == before


def test_columns_as_told_hold_for_all_files(folder):
    for name in ("shout", "odd"):
        path = folder / "tasks" / f"{name}.jsonl"
        path.write_text(path.read_text().replace('"output"', '"said"'))
    (folder / "tasks" / "twice.csv").write_text("instruction,input,said\nSay it twice.,a,a a\n")
    source = read_folder(SourceSpec(str(folder), columns={"output": "said"}), refuse)
    assert [len(read.places) for read in source.read(refuse)] == [2, 2, 1]


def test_all_faults_of_splits_index_and_rows_are_told_in_one_pass(folder, both_ways):
    write_splits(folder, {"meta_train": ["shout", "twice", "shout"], "meta_validation": ["odd", "gone"], "meta_test": ["twice", "lost"]})
    write_index(folder, [*ENTRIES, ENTRIES[0], {"file": "x"}, "text", {**ENTRIES[0], "name": "lost", "file": "lost.jsonl"}])
    write_lines(folder / "tasks" / "shout.jsonl", [{"input": "a", "output": "A"}, "{", {"input": 2, "output": "B"}, {"input": "b"}])
    write_lines(folder / "tasks" / "odd.jsonl", [{"input": "1", "output": "maybe"}, {"input": "2", "output": "no"}])
    good = both_ways(
        reader(folder),
        "splits.json: the task 'shout' is in split 'meta_train' and in 'meta_train'; a task is held out whole",
        "splits.json: the task 'twice' is in split 'meta_train' and in 'meta_test'; a task is held out whole",
        "tasks.json: entry 5 has the name 'shout' once more; names are unique in a suite",
        "tasks.json: entry 6 is no JSON object with a `name`",
        "tasks.json: entry 7 is no JSON object with a `name`",
        "splits.json: split 'meta_validation' names the task 'gone', which the suite does not have; take it out, or describe it in",
        "tasks.json: task 'lost' names the file 'lost.jsonl', which is not there",
        "shout.jsonl, line 2: not valid JSON",
        "shout.jsonl, line 3: `input` is a number, not text",
        "shout.jsonl, line 4: `output` is missing; columns found: input",
        "odd.jsonl, line 1: `output` 'maybe' is not among the labels of 'odd': yes, no",
    )
    assert [(read.task.name, len(read.places)) for read in good] == [("shout", 1), ("odd", 1), ("twice", 1)]


def test_a_task_in_two_splits_stays_in_the_first(folder):
    write_splits(folder, {"meta_train": ["shout", "odd"], "meta_test": ["odd", "twice"]})
    assert read_folder(SourceSpec(str(folder)), lambda problem: None).splits == {"meta_train": ("shout", "odd"), "meta_test": ("twice",)}


ODD = {
    "no file": ({"file": None}, ["task 'odd' lacks 'file'"]),
    "no cluster": ({"cluster": 3}, ["task 'odd' lacks 'cluster'"]),
    "neither": ({"cluster": None, "file": 1}, ["task 'odd' lacks 'file'", "task 'odd' lacks 'cluster'"]),
    "instruction": ({"instruction": ["a"]}, ["task 'odd' has a list for 'instruction'; give text, or leave it out"]),
    "language": ({"language": 7}, ["task 'odd' has a number for 'language'; give text, or leave it out"]),
    "labels as text": ({"labels": "yes"}, ["task 'odd' has no list of texts for 'labels'; give one, or leave it out"]),
    "labels of lists": ({"labels": [["yes"]]}, ["task 'odd' has no list of texts for 'labels'"]),
    "terms": ({"data_terms": ["a"]}, ["task 'odd' has a list for 'data_terms'; give text, or leave it out"]),
    "wordings as text": (
        {"instruction_variants": "Uneven?"},
        ["task 'odd' has no list of texts for 'instruction_variants'; give one, or leave it out"],
    ),
    "wordings of numbers": ({"instruction_variants": ["a", 1]}, ["task 'odd' has no list of texts for 'instruction_variants'"]),
    "an empty wording": (
        {"instruction_variants": ["a", " "]},
        ["odd.jsonl: task 'odd' has the instruction 'Odd?' and the paraphrases ['a', '']; give each wording once, none of them empty"],
    ),
    "wordings of nothing": ({"instruction": "", "instruction_variants": ["a"]}, ["the instruction '' and the paraphrases ['a']"]),
    "labels twice": ({"labels": ["yes", "no", "no"]}, ["odd.jsonl: task 'odd' has the labels ['yes', 'no', 'no']; give each once"]),
}


@pytest.mark.parametrize("fault", ODD)
def test_what_is_odd_in_an_entry_is_told(folder, both_ways, fault):
    change, told = ODD[fault]
    write_index(folder, [ENTRIES[0], {**ENTRIES[1], **change}, ENTRIES[2]])
    assert [read.task.name for read in both_ways(reader(folder), *told)] == ["shout", "twice"]


@pytest.mark.parametrize(("content", "words"), [("", "odd.jsonl: the file has no rows"), ("\n\n", "odd.jsonl: the file has no rows")])
def test_an_empty_file_is_told_once(folder, both_ways, content, words):
    (folder / "tasks" / "odd.jsonl").write_text(content)
    assert len(both_ways(reader(folder), words)) == 2


STOPS = {
    "no splits": (lambda folder: (folder / "splits.json").unlink(), "is no suite folder: it needs splits.json"),
    "no index": (lambda folder: (folder / "tasks" / "tasks.json").unlink(), "is no suite folder"),
    "splits in a list": (lambda folder: write_splits(folder, []), "splits.json: expected a JSON object of splits, found a list"),
    "no training split": (
        lambda folder: write_splits(folder, {"train": [], "meta_train": "shout"}),
        "splits.json: no list `meta_train`; it has train",
    ),
    "no lists": (lambda folder: write_splits(folder, {}), "splits.json: no list `meta_train`; it has no lists of tasks"),
    "split of numbers": (
        lambda folder: write_splits(folder, {**SPLITS, "meta_validation": [7]}),
        "splits.json: the list `meta_validation` must hold task names only",
    ),
    "split twice": (
        lambda folder: (folder / "splits.json").write_text('{"meta_train": [], "meta_train": []}'),
        "splits.json: not valid JSON ('meta_train' is twice in one object)",
    ),
    "broken index": (lambda folder: (folder / "tasks" / "tasks.json").write_text("{"), "tasks.json: not valid JSON"),
    "index in an object": (lambda folder: write_index(folder, {}), "tasks.json: expected a JSON list of tasks, found an object"),
}


@pytest.mark.parametrize("fault", STOPS)
def test_what_cannot_be_read_at_all_stops_whatever_the_report(folder, fault):
    spoil, words = STOPS[fault]
    spoil(folder)
    for report in (refuse, lambda problem: None):
        with pytest.raises(DataError) as raised:
            read_folder(SourceSpec(str(folder)), report)
        assert words in str(raised.value)


@pytest.mark.parametrize("file", ["splits.json", "tasks/tasks.json", "tasks/odd.jsonl", "tasks/twice.csv"])
def test_the_digest_tells_of_every_file(folder, file):
    before = read_folder(SourceSpec(str(folder)), refuse).revision
    assert read_folder(SourceSpec(str(folder)), refuse).revision == before
    (folder / file).write_text((folder / file).read_text() + "\n")
    assert read_folder(SourceSpec(str(folder)), refuse).revision != before


def test_files_that_no_split_names_do_not_matter(folder):
    before = read_folder(SourceSpec(str(folder)), refuse).revision
    write_lines(folder / "tasks" / "stray.jsonl", ["{"])
    assert read_folder(SourceSpec(str(folder)), refuse).revision == before
