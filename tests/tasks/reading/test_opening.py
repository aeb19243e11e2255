"""Which layout lies where, and what is told where there is none."""

import errno
import json

import pytest

from headstart.tasks.problems import DataError
from headstart.tasks.reading import text
from headstart.tasks.reading.opening import open_source, source_kind
from headstart.tasks.spec import SourceSpec


def make(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text('{"input": "a", "output": "b"}\n')
    return folder


@pytest.mark.parametrize(
    ("files", "options", "kind"),
    [
        (["splits.json", "tasks/tasks.json"], {}, "folder"),
        (["tasks/tasks.json"], {}, "folder"),
        (["splits.json"], {}, "folder"),
        (["tasks/a.json", "splits/default/train_tasks.txt"], {}, "natural_instructions"),
        (["a.jsonl", "README.md"], {}, "files"),
        (["a.jsonl", "README.md"], {"task_column": "t"}, "dataset"),
        (["a.jsonl"], {"data_files": ("a.jsonl",)}, "dataset"),
        (["dataset_info.json", "state.json", "data.arrow"], {"task_column": "t"}, "dataset"),
        (["code.py"], {}, "dataset"),
        (["a.jsonl"], {"kind": "dataset"}, "dataset"),
    ],
)
def test_a_folders_layout_is_seen(tmp_path, files, options, kind):
    assert source_kind(SourceSpec(str(make(tmp_path, *files)), **options)) == kind


def test_files_and_ids_are_told_apart(tmp_path):
    path = str(make(tmp_path, "a.jsonl") / "a.jsonl")
    assert source_kind(SourceSpec("builtin")) == "builtin"
    assert source_kind(SourceSpec(path)) == "files"
    assert source_kind(SourceSpec(path, task_column="t")) == "dataset"
    assert source_kind(SourceSpec("owner/name")) == "dataset"
    assert source_kind(SourceSpec("glue", task_column="t")) == "dataset"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "there is no suite 'nowhere': give `builtin`, a folder with splits.json and tasks.json, one of files"),
        ("../nowhere", "there is no suite '../nowhere': give `builtin`"),
        ("/no/such/folder", "there is no suite '/no/such/folder': give `builtin`"),
        ("a.jsonl/below", "a.jsonl/below: there is no such folder, and the hub gives no such dataset"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(make(tmp_path, "a.jsonl"))
    with pytest.raises(DataError) as raised:
        open_source(SourceSpec(path))
    assert words in str(raised.value)


def test_a_folder_of_nothing_that_is_known_is_told(tmp_path):
    with pytest.raises(DataError, match="is no suite folder, and no file of rows lies in it: give `builtin`"):
        open_source(SourceSpec(str(make(tmp_path, "README.md"))))
    with pytest.raises(DataError, match=r"README.md: is no .jsonl, .json, .csv, .tsv or .parquet file"):
        open_source(SourceSpec(str(tmp_path / "README.md")))


def test_links_that_lead_back_are_told(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="loop: a symbolic link that leads back to itself; remove it, or point it to the data"):
        open_source(SourceSpec(str(tmp_path / "loop")))
    # inside a folder it is no data, and does no harm
    folder = make(tmp_path / "data", "a.jsonl")
    (folder / "again").symlink_to(folder)
    (folder / "round").symlink_to(folder / "round")
    assert [read.task.name for read in open_source(SourceSpec(str(folder))).read(pytest.fail)] == ["a"]


@pytest.mark.parametrize("function", ["stat", "scandir"])
def test_folders_that_may_not_be_read_are_told(tmp_path, denied, function):
    make(tmp_path, "a.jsonl")
    denied(text.os, function, tmp_path, errno.EACCES)
    with pytest.raises(DataError, match=rf"{tmp_path.name}: no permission to read it; change its mode or its owner \(chmod, chown\)"):
        open_source(SourceSpec(str(tmp_path)))


def test_folders_of_which_no_file_may_be_looked_at_are_told(tmp_path, denied):
    """As those that may be listed and not entered."""
    make(tmp_path, "a.jsonl")
    denied(text.os, "stat", tmp_path / "splits.json", errno.EACCES)
    with pytest.raises(DataError, match=r"splits.json: no permission to read it"):
        open_source(SourceSpec(str(tmp_path)))


def test_a_kind_that_is_said_is_the_one_that_is_read(tmp_path):
    folder = make(tmp_path, "splits.json", "tasks/tasks.json", "a.jsonl")
    (folder / "splits.json").write_text(json.dumps([{"input": "a", "output": "b"}]))
    assert [read.task.name for read in open_source(SourceSpec(str(folder), kind="files")).read(pytest.fail)] == ["a", "splits"]


def test_the_builtin_suite_is_a_source():
    source = open_source(SourceSpec("builtin"))
    assert source.name == "builtin"
    assert len(source.splits["meta_train"]) > 60
