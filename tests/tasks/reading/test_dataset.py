"""Datasets: the same tasks from every form, classes by name, every faulty row told, nothing read twice, and no network."""

import json
import os
from types import SimpleNamespace

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from tasks.reading.formats import as_bytes

from headstart.files import cache_folder
from headstart.tasks.prepare import prepare_suite
from headstart.tasks.problems import DataError, refuse
from headstart.tasks.reading import dataset, spool
from headstart.tasks.reading.dataset import read_dataset
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example

TASKS, EACH = ("case_upper", "case_title", "copy_twice", "order_sort"), 12
ROWS = [
    {"task": task, "input": f"in {number}", "output": f"{task} {number}", "kind": task.split("_")[0]}
    for number in range(EACH)
    for task in TASKS
]
BY_TASK = {"task_column": "task"}


def files(folder, ending=".jsonl", rows=ROWS):
    folder.mkdir(exist_ok=True)
    (folder / f"train{ending}").write_bytes(as_bytes(rows, ending))
    return str(folder)


def lines(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(folder)


def empty(folder):
    folder.mkdir()
    (folder / "train.csv").write_text(",".join(ROWS[0]) + "\n")
    return str(folder)


def saved(folder, rows=ROWS, features=None):
    Dataset.from_list(rows, features=features).save_to_disk(str(folder))
    return str(folder)


def read(path, report=refuse, **options):
    source = read_dataset(SourceSpec(path, **{**BY_TASK, **options}), report)
    return {one.task.name: one.task for one in source.read(report)}


@pytest.fixture
def tasks(tmp_path):
    return read(files(tmp_path / "reference"))


def test_a_column_parts_rows_into_tasks(tasks):
    assert set(tasks) == set(TASKS)
    for name, task in tasks.items():
        assert set(task.examples) == {Example(f"in {number}", f"{name} {number}") for number in range(EACH)}
        assert [example.input for example in task.examples] != [f"in {number}" for number in range(EACH)]
        assert (task.cluster, task.instruction, task.labels) == (name, "", ())


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_every_form_gives_the_same_tasks(tmp_path, tasks, ending, streaming):
    path = files(tmp_path / "data", ending)
    assert read(path, streaming=streaming) == tasks
    # one file of it
    assert read(f"{path}/train{ending}", streaming=streaming) == tasks


def test_what_was_saved_to_disk_gives_the_same_tasks(tmp_path, tasks):
    assert read(saved(tmp_path / "one")) == tasks
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:8])).save_to_disk(str(tmp_path / "many"))
    assert read(str(tmp_path / "many")) == tasks
    assert {len(task.examples) for task in read(str(tmp_path / "many"), split="test").values()} == {2}
    with pytest.raises(DataError, match="many: split: there is no 'dev'; there are train, test"):
        read(str(tmp_path / "many"), split="dev")


def test_files_of_a_folder_may_be_named(tmp_path, tasks):
    path = files(tmp_path / "data")
    (tmp_path / "data" / "other.jsonl").write_text("{broken")
    assert read(path, data_files=("train.jsonl",)) == tasks


@pytest.mark.parametrize("streaming", [False, True])
def test_large_tasks_are_cut_to_the_same_examples(tmp_path, tasks, streaming):
    few = read(files(tmp_path / "data"), max_examples=5, streaming=streaming)
    assert {name: task.examples for name, task in few.items()} == {name: task.examples[:5] for name, task in tasks.items()}


def test_without_a_task_column_it_is_one_task(tmp_path):
    path = saved(tmp_path / "data", [{"input": f"in {n}", "output": f"out {n}"} for n in range(6)])
    assert list(read(path, task_column=None)) == ["data"]
    assert list(read(path, task_column=None, name="config")) == ["config"]


def test_clusters_are_a_column_or_found_in_names(tmp_path, tasks):
    path = files(tmp_path / "data")
    wanted = {name: name.split("_")[0] for name in TASKS}
    assert {name: task.cluster for name, task in read(path, cluster_column="kind").items()} == wanted
    assert {name: task.cluster for name, task in read(path, cluster_pattern="^(.*)_").items()} == wanted
    with pytest.raises(DataError, match=r"cluster_pattern: .* has no group"):
        read(path, cluster_pattern="case")


def test_a_task_in_two_clusters_is_told_by_row(tmp_path, both_ways):
    rows = [{"task": task, "input": str(n), "output": "o", "kind": kind} for n, (task, kind) in enumerate(("ax", "bx", "ay", "bx", "ax"))]
    path = files(tmp_path / "data", rows=rows)
    good = both_ways(
        lambda report: read_dataset(SourceSpec(path, cluster_column="kind", **BY_TASK), report).read(report),
        "data, row 3: `kind` is 'y', but 'x' in the first row of the task 'a'; a task is held out whole, so give it one cluster",
    )
    assert sorted(place.row for one in good for place in one.places) == [1, 2, 4, 5]


CLASSES = Features({"text": Value("string"), "label": ClassLabel(names=["none", "some"]), "task": ClassLabel(names=["a", "b"])})


def classified(*labels):
    return [{"text": f"t {number}", "label": label, "task": number % 2} for number, label in enumerate(labels)]


@pytest.mark.parametrize("streaming", [False, True])
def test_classes_go_by_their_names(tmp_path, streaming):
    path = tmp_path / "data"
    path.mkdir()
    Dataset.from_list(classified(*[0, 0, 1, 1] * 3), features=CLASSES).to_parquet(str(path / "train.parquet"))
    tasks = read(str(path), streaming=streaming)
    assert list(tasks) == ["a", "b"]
    assert tasks["a"].labels == ("none", "some")
    assert {example.input: example.output for example in tasks["a"].examples}["t 2"] == "some"


def test_a_class_that_is_missing_is_told_and_never_another(tmp_path, both_ways):
    path = saved(tmp_path / "data", classified(0, 1, -1, 0, 1, -1), CLASSES)
    source = lambda report: read_dataset(SourceSpec(path, task_column="task"), report).read(report)  # noqa: E731
    good = both_ways(
        source,
        *(
            f"data, row {row}: `label` is -1, which is no class, so the label is missing; read another split, or leave the row out"
            for row in (3, 6)
        ),
    )
    assert sum(len(one.places) for one in good) == 4


def test_numbers_and_truths_are_labels_and_names(tmp_path):
    rows = [{"text": f"t {n}", "label": n % 3, "task": n % 2} for n in range(24)]
    assert read(saved(tmp_path / "numbers", rows))["1"].labels == ("0", "1", "2")
    truths = [{**row, "label": row["label"] > 0} for row in rows]
    assert read(saved(tmp_path / "truths", truths))["0"].labels == ("false", "true")


def test_an_instruction_may_hold_columns(tmp_path):
    rows = [{**row, "tongue": "Irish" if row["task"] == TASKS[0] else f"tongue {at}"} for at, row in enumerate(ROWS)]
    tasks = read(saved(tmp_path / "data", rows), instruction="Say it in {tongue}.")
    assert tasks[TASKS[0]].instruction == "Say it in Irish."
    assert tasks[TASKS[1]].instruction == ""
    assert all(example.input.startswith("Say it in tongue ") for example in tasks[TASKS[1]].examples)


def test_chats_are_read_with_their_turns(tmp_path):
    chat = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"))]
    path = saved(tmp_path / "data", [{"messages": chat, "task": "t"}])
    history = (("user", "q"), ("assistant", "a"))
    assert set(read(path)["t"].examples) == {Example("q", "a"), Example("r", "b", history)}
    assert read(path, turns="last")["t"].examples == (Example("r", "b", history),)


def test_columns_as_told_hold(tmp_path, tasks):
    rows = [{"asked": row["input"], "said": row["output"], "task": row["task"]} for row in ROWS]
    assert read(saved(tmp_path / "data", rows), columns={"input": "asked", "output": "said"}) == tasks


@pytest.mark.parametrize("streaming", [False, True])
def test_types_that_the_library_lets_pass_are_told_by_row(tmp_path, both_ways, streaming):
    """A column of texts, numbers and objects loads without an error."""
    path = lines(
        tmp_path / "data",
        {"task": "a", "input": "i", "output": "o"},
        {"task": "a", "input": 1, "output": "o"},
        {"task": "b", "input": {"x": 2}, "output": "o"},
        {"task": "b", "input": "i", "output": ["o"]},
        {"task": "b", "input": "i"},
        {"task": None, "input": "i", "output": "o"},
        {"task": " ", "input": "i", "output": "o"},
        {"task": "b", "input": "j", "output": "p"},
    )
    good = both_ways(
        lambda report: read_dataset(SourceSpec(path, streaming=streaming, **BY_TASK), report).read(report),
        "data, row 2: `input` is a number, not text; put it in quotes",
        "data, row 3: `input` is an object, not text; give text",
        "data, row 4: `output` is a list, not text; give one answer a row",
        "data, row 5: `output` is empty",
        "data, row 6: `task` is empty",
        "data, row 7: `task` is empty; every row names its task and cluster",
    )
    assert [(one.task.name, one.places[0].row) for one in good] == [("a", 1), ("b", 8)]


FAULTS = {
    "task column": ({"task_column": "kindd"}, "data: task_column: there is no column 'kindd'; columns found: task, input, output, kind"),
    "cluster column": ({"cluster_column": "x"}, "data: cluster_column: there is no column 'x'; columns found: task, input, output, kind"),
    "column as told": ({"columns": {"input": "x"}}, "data: there is no column 'x'; columns found: task, input, output, kind"),
    "column of the instruction": ({"instruction": "{x}"}, "data, row 1: instruction: there is no column 'x'; columns found: task, input"),
    "split": ({"split": "nope"}, "data: cannot be loaded by the library datasets: "),
    "configuration": ({"name": "nope"}, "data: cannot be loaded: BuilderConfig 'nope' not found. Available: ['default']; say which"),
    "files": ({"data_files": ("no.jsonl",)}, "data: cannot be loaded by the library datasets: Unable to find"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_there_is_told_whatever_the_report(tmp_path, fault, streaming):
    options, words = FAULTS[fault]
    path = files(tmp_path / "data")
    for report in (refuse, lambda problem: None):
        with pytest.raises(DataError) as raised:
            read(path, report, streaming=streaming, **options)
        assert words in str(raised.value)
    assert not list((cache_folder() / "datasets").glob("*/index.json"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.jsonl", b'{"task": "a", "input": "i", "output": "o"}\n{oops\n', "JSON parse error"),
        ("train.parquet", as_bytes(ROWS, ".parquet")[:-30], "Parquet magic bytes not found in footer"),
        ("train.txt.zip", b"no zip", ""),
        ("README.md", b"nothing", "doesn't contain any data files"),
    ],
)
def test_files_that_cannot_be_read_are_told(tmp_path, name, content, words, streaming):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(DataError, match=f"data: cannot be loaded by the library datasets: .*{words}.*; check the path or id"):
        read(str(tmp_path / "data"), streaming=streaming)


def test_a_dataset_without_good_rows_is_told_by_its_first_fault(tmp_path):
    with pytest.raises(DataError, match="data, row 1: `output` is empty; the row is left out"):
        read(lines(tmp_path / "data", {"task": "a", "input": "i", "output": ""}))
    with pytest.raises(DataError, match="none: the dataset has no rows"):
        read(empty(tmp_path / "none"), streaming=True)


@pytest.mark.parametrize("beside", [False, True])
def test_code_for_loading_is_never_run(tmp_path, beside):
    folder = tmp_path / "NAME"
    folder.mkdir()
    (folder / "NAME.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if beside:
        files(folder)
    with pytest.raises(
        DataError, match=r"NAME: brings code of its own for loading it, which headstart never runs \(.*NAME.py\); give its data files"
    ):
        read(str(folder))
    assert not (tmp_path / "ran").exists()


def never(*arguments, **options):
    raise AssertionError("read anew")


def test_the_second_time_nothing_is_read_anew(tmp_path, monkeypatch, tasks):
    path = files(tmp_path / "data")
    first = read(path)
    monkeypatch.setattr(datasets, "load_dataset", never)
    assert read(path) == first == tasks
    # what decides nothing of the rows is free to change
    assert read(path, cluster_pattern="^(.*)_")[TASKS[0]].cluster == "case"
    with pytest.raises(DataError, match="read anew"):
        read(path, max_examples=3)
    (tmp_path / "data" / "train.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(DataError, match="read anew"):
        read(path)


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    path = files(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(spool.Spool, "rows", never)
        with pytest.raises(AssertionError):
            read(path)
    assert [entry for entry in (cache_folder() / "datasets").iterdir() if not entry.name.startswith(".")] == []
    assert set(read(path)) == set(TASKS)


def test_hidden_files_do_not_matter_and_others_do(tmp_path):
    path = files(tmp_path / "data")

    def revision():
        return read_dataset(SourceSpec(path, **BY_TASK), refuse).revision

    before = revision()
    (tmp_path / "data" / ".DS_Store").write_text("x")
    assert revision() == before
    (tmp_path / "data" / "README.md").write_text("x")
    assert revision() != before


class FakeHub:
    """Stands for the hub: answers with a commit, and loads what lies in a folder."""

    def __init__(self, monkeypatch, folder):
        self.sha, self.loads, self.down = "a" * 40, [], None
        monkeypatch.setattr(HfApi, "dataset_info", lambda api, *rest, **options: self._info())
        load = datasets.load_dataset
        monkeypatch.setattr(datasets, "load_dataset", lambda path, name, **options: self._load(load, folder, name, options))

    def _info(self):
        if self.down:
            raise self.down
        return SimpleNamespace(sha=self.sha)

    def _load(self, load, folder, name, options):
        self.loads.append(options["revision"])
        return load(folder, name, **{**options, "revision": None})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return FakeHub(monkeypatch, files(tmp_path / "data"))


class NetworkError(Exception):
    """As the client's network library has its own."""


@pytest.mark.parametrize("down", [OfflineModeIsEnabled("offline"), ConnectionError("no route"), NetworkError("no route")])
def test_what_was_read_once_needs_no_hub(tasks, hub, down):
    assert read("me/data") == tasks
    hub.down = down
    assert read("me/data") == tasks
    assert len(hub.loads) == 1
    with pytest.raises(
        DataError, match=r"me/other: there is no such folder, and the hub gives no such dataset \(\w+\); check the path or id"
    ):
        read("me/other")


def test_a_new_commit_is_read_anew(hub):
    read("me/data")
    hub.sha = "b" * 40
    read("me/data")
    read("me/data", revision="branch")
    assert hub.loads == ["a" * 40, "b" * 40]


def test_what_is_no_id_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is neither a folder nor a dataset's id"):
        read("no such//thing")


def test_memory_holds_no_more_rows_than_the_spool_does(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "BUFFERED", 5)
    held = []
    add = spool.Spool.add
    monkeypatch.setattr(spool.Spool, "add", lambda self, *row: (add(self, *row), held.append(self._held)))
    read(files(tmp_path / "data"))
    assert max(held) < 5
    assert len(held) == len(ROWS)


def test_a_dataset_becomes_a_suite_with_kinds_held_out(tmp_path, tokenizer):
    rows = [{**row, "task": f"{row['task']}_{n}", "kind": f"{row['kind']}_{n}"} for n in range(4) for row in ROWS]
    path = files(tmp_path / "data", rows=rows)
    spec = SourceSpec(path, cluster_column="kind", **BY_TASK)
    suite, notes = prepare_suite([spec], "instructed", Renderer(tokenizer), 1)
    clusters = [{task.cluster for task in suite.split(split)} for split in ("meta_train", "meta_validation", "meta_test")]
    assert notes == []
    assert [len(each) for each in clusters] == [10, 1, 1]
    assert len(set().union(*clusters)) == 12
    streamed, _ = prepare_suite([SourceSpec(path, cluster_column="kind", streaming=True, **BY_TASK)], "instructed", Renderer(tokenizer), 1)
    assert streamed.splits == suite.splits
    assert all(list(streamed.tasks[name].examples) == list(task.examples) for name, task in suite.tasks.items())


def test_a_folders_own_name_is_the_sources(tmp_path):
    """Its path is nobody else's business, since the name goes into what is published."""
    path = files(tmp_path / "data")
    assert read_dataset(SourceSpec(os.path.join(path, ""), **BY_TASK), refuse).name == "data"
    assert dataset.LATEST not in os.listdir(path)
