"""Folders of plain files: a task each."""

import gzip
import json

import pytest
from tasks.reading.formats import as_bytes

from headstart.tasks.problems import DataError, refuse
from headstart.tasks.reading.plain_files import read_plain_files
from headstart.tasks.sources import open_suite
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example

ROWS = [{"input": f"in {number}", "output": f"out {number}"} for number in range(30)]


@pytest.fixture
def folder(tmp_path):
    """The same rows in every format, and what is no task beside them."""
    for ending in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        (tmp_path / f"qa_{ending[1:]}{ending}").write_bytes(as_bytes(ROWS, ending))
    (tmp_path / "nli_gzip.jsonl.gz").write_bytes(gzip.compress(as_bytes(ROWS, ".jsonl")))
    for name in ("README.md", ".hidden.jsonl", "notes.txt"):
        (tmp_path / name).write_text("no rows")
    (tmp_path / "below").mkdir()
    return tmp_path


def tasks_of(spec, report=refuse):
    return {read.task.name: read.task for read in read_plain_files(spec, report).read(report)}


def test_every_file_is_a_task_called_like_it(folder):
    tasks = tasks_of(SourceSpec(str(folder)))
    assert list(tasks) == ["nli_gzip", "qa_csv", "qa_json", "qa_jsonl", "qa_parquet", "qa_tsv"]
    for task in tasks.values():
        assert set(task.examples) == {Example(**row) for row in ROWS}
        assert task.cluster == task.name


def test_sorted_files_are_read_in_a_drawn_order(folder):
    tasks = tasks_of(SourceSpec(str(folder)))
    orders = {task.examples for task in tasks.values()}
    assert len(orders) == len(tasks)
    assert tuple(Example(**row) for row in ROWS) not in orders
    assert tasks == tasks_of(SourceSpec(str(folder)))


def test_clusters_come_of_a_pattern_and_are_held_out_whole(folder):
    spec = SourceSpec(str(folder), cluster_pattern="^([a-z]+)_", splits={"meta_train": 0.5, "meta_test": 0.5})
    suite = open_suite(spec)
    assert {task.cluster for task in suite.tasks.values()} == {"qa", "nli"}
    assert {len(names) for names in suite.splits.values()} == {1, 5}


def test_what_is_said_of_columns_turns_and_instructions_holds(tmp_path):
    chat = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))]
    (tmp_path / "a.jsonl").write_text(json.dumps({"chat": chat, "tongue": "Irish"}) + "\n")
    spec = SourceSpec(str(tmp_path), columns={"messages": "chat"}, turns="last", instruction="In {tongue}.")
    task = tasks_of(spec)["a"]
    assert task.instruction == "In Irish."
    assert task.examples == (Example("r", "b", (("user", "q"), ("assistant", "a"))),)
    assert len(tasks_of(SourceSpec(str(tmp_path), columns={"messages": "chat"}))["a"].examples) == 2


def test_labels_are_noticed(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{n},{'ham' if n % 2 else 'spam'}\n" for n in range(6)))
    assert tasks_of(SourceSpec(str(tmp_path)))["a"].labels == ("ham", "spam")


def test_a_single_file_is_one_task(folder):
    assert list(tasks_of(SourceSpec(str(folder / "qa_csv.csv")))) == ["qa_csv"]


def test_the_digest_tells_of_files_and_contents(folder):
    def revision():
        return read_plain_files(SourceSpec(str(folder)), refuse).revision

    seen = [revision()]
    assert revision() == seen[0]
    (folder / "qa_csv.csv").write_text("input,output\na,b\n")
    seen.append(revision())
    (folder / "qa_csv.csv").rename(folder / "qa_other.csv")
    seen.append(revision())
    (folder / ".hidden.jsonl").unlink()
    assert len(set(seen)) == 3
    assert revision() == seen[2]


def test_two_files_of_one_name_are_told(folder, both_ways):
    for name in ("qa_csv.tsv", "qa_csv.jsonl"):
        (folder / name).write_bytes(as_bytes(ROWS, "." + name.split(".")[1]))
    good = both_ways(
        lambda report: read_plain_files(SourceSpec(str(folder)), report).read(report),
        "qa_csv.jsonl: the task 'qa_csv' has another file, qa_csv.csv; rename one",
        "qa_csv.tsv: the task 'qa_csv' has another file, qa_csv.csv; rename one",
    )
    assert len(good) == 6


def test_all_faults_of_all_files_are_told_in_one_pass(folder, both_ways):
    (folder / "qa_csv.csv").write_text("input,output\na,b\nc\nd,\n")
    (folder / "qa_json.json").write_text("{")
    (folder / "qa_jsonl.jsonl").write_text('{"input": 1, "output": "a"}\n')
    (folder / "qa_tsv.tsv").write_text("")
    good = both_ways(
        lambda report: read_plain_files(SourceSpec(str(folder)), report).read(report),
        "qa_csv.csv, line 3: 1 cells, fewer than the 2 columns",
        "qa_csv.csv, line 4: `output` is empty",
        "qa_json.json: not valid JSON",
        "qa_jsonl.jsonl, line 1: `input` is a number, not text; put it in quotes",
        "qa_tsv.tsv: the file has no rows",
    )
    assert [read.task.name for read in good] == ["nli_gzip", "qa_csv", "qa_parquet"]
    assert len(good[1].places) == 1


def test_a_folder_without_files_of_rows_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no .jsonl, .json, .csv, .tsv or .parquet file"):
        read_plain_files(SourceSpec(str(tmp_path)), refuse)
    with pytest.raises(DataError, match="has no group"):
        read_plain_files(SourceSpec(str(tmp_path), cluster_pattern="x"), refuse)
