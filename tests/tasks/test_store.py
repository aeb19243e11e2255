"""Stores: what is read back is what was written, rendered as anew, and nothing half-written is ever used."""

import json
import os
import time
from dataclasses import replace
from shutil import copytree, rmtree

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import CHAT_TEMPLATE, build_tokenizer

from headstart.tasks import store
from headstart.tasks.episodes import NOTHING_REDRAWN, Redrawn
from headstart.tasks.prepare import Plan, prepare, prepare_suite
from headstart.tasks.problems import refuse
from headstart.tasks.reading.source import of_suite
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.store import EXAMPLES, INDEX, Writer, forget_old_stores, is_stored, read_store
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite

CHAT = (("system", "Be kind."), ("user", "q"), ("assistant", "a"))


@pytest.fixture
def rows(tmp_path):
    """A suite's folder of chats, of texts of all kinds, and of labels."""
    entries = [{"name": name, "file": f"{name}.jsonl", "instruction": "Do.", "cluster": name} for name in ("chat", "text", "kind")]
    entries[2] |= {"labels": ["no", "absolutely"], "language": "English", "licence": "CC0", "dataset": "d"}
    entries[2] |= {"data_terms": "research only", "instruction_variants": ["Act.", "Make."]}
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "tasks.json").write_text(json.dumps(entries))
    (folder / "splits.json").write_text(json.dumps({"meta_train": ["chat", "kind"], "meta_test": ["text"]}))
    turns = [{"role": role, "content": text} for role, text in (*CHAT, ("user", "r"), ("assistant", "b"))]
    write(folder / "chat.jsonl", [{"messages": turns}, {"messages": turns[1:3]}])
    write(folder / "text.jsonl", [{"input": text, "output": text} for text in ("grün 日本", "two\nlines", "\U0001f600", '"{}"')])
    write(folder / "kind.jsonl", [{"input": str(number), "output": "no"} for number in range(9)])
    return folder


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def planned(folder, tokenizer, regime="instructed", seed=0, redrawn=NOTHING_REDRAWN, **options):
    return Plan.of([SourceSpec(str(folder), **options)], regime, Renderer(tokenizer), seed, redrawn)


def stored(folder, tokenizer, **options):
    return prepare(planned(folder, tokenizer, **options), Renderer(tokenizer))


@pytest.fixture
def suite(rows, tokenizer):
    return read_store(stored(rows, tokenizer))[0]


def test_texts_and_turns_come_back(suite):
    assert list(suite.tasks["chat"].examples) == [
        Example("q", "a", CHAT[:1]),
        Example("r", "b", CHAT),
        Example("q", "a"),
    ]
    assert [example.input for example in suite.tasks["text"].examples] == ["grün 日本", "two\nlines", "\U0001f600", '"{}"']


def test_all_that_is_known_of_tasks_comes_back(suite):
    kind = suite.tasks["kind"]
    assert (kind.instruction, kind.cluster, kind.labels) == ("Do.", "kind", ("no", "absolutely"))
    assert (kind.language, kind.licence, kind.dataset) == ("English", "CC0", "d")
    assert (kind.data_terms, kind.paraphrases, kind.original_labels) == ("research only", ("Act.", "Make."), ())
    assert suite.splits == {"meta_train": ("chat", "kind"), "meta_test": ("text",)}
    assert suite.origin("kind") == "suite"
    assert suite.shares == {"suite": 1.0}


def test_what_labels_were_before_they_were_codes_comes_back(rows, tokenizer):
    kind = read_store(stored(rows, tokenizer, regime="house_rules"))[0].tasks["kind"]
    assert (kind.original_labels, kind.paraphrases) == (("no", "absolutely"), ())
    assert not set(kind.labels) & set(kind.original_labels)


def test_tokens_are_those_of_rendering_anew(suite, tokenizer):
    fresh = Renderer(tokenizer)
    for task in suite.tasks.values():
        for example in task.examples:
            (anew,) = fresh.measure(task.instruction, [replace(example, tokens=None)])
            assert (example.tokens.ids, example.tokens.answer) == (anew.ids, anew.answer)
            assert example.tokens.by == fresh.by(task.instruction)


def test_stored_tokens_are_used_and_only_where_they_hold(suite, tokenizer, monkeypatch):
    task = suite.tasks["text"]
    expected = Renderer(tokenizer).measure("Do.", task.examples)
    renderer = Renderer(tokenizer)
    other = renderer.render("Another instruction.", task.examples)
    assert [one.ids for one in other] != [one.ids for one in expected]
    monkeypatch.setattr(Renderer, "measure", lambda self, instruction, examples: [] if not examples else pytest.fail("rendered anew"))
    assert renderer.render("Do.", task.examples) == expected


def test_lengths_are_those_with_the_longest_label(suite, tokenizer):
    kind, text = suite.tasks["kind"], suite.tasks["text"]
    asked = Renderer(tokenizer)
    longest = [len(one.ids) for one in asked.measure("Do.", [Example(example.input, "absolutely") for example in kind.examples])]
    assert list(kind.examples.lengths) == longest
    assert list(text.examples.lengths) == [len(example.tokens.ids) for example in text.examples]


def test_stored_examples_are_a_sequence(suite):
    examples = suite.tasks["kind"].examples
    every = list(examples)
    assert len(examples) == len(every) == 9
    assert [examples[index] for index in range(9)] == every
    assert examples[-1] == every[-1]
    for part in (slice(2, 5), slice(None, None, -2), slice(7, 99), slice(0)):
        assert list(examples[part]) == every[part]
        assert len(examples[part]) == len(every[part])
    assert list(examples[2:8][1:3]) == every[3:5]
    assert list(examples[2:5].lengths) == list(examples.lengths[2:5])
    with pytest.raises(IndexError):
        examples[9]
    task = suite.tasks["kind"]
    assert [*task.support_pool, *task.query_pool] == every


def test_those_within_a_length_are_taken(suite):
    examples = suite.tasks["text"].examples
    limit = sorted(examples.lengths)[1]
    assert list(examples.within(limit)) == [example for example, length in zip(examples, examples.lengths, strict=True) if length <= limit]
    assert len(examples.within(0)) == 0
    assert list(examples[1:].within(limit)) == [one for one in examples[1:] if one in list(examples.within(limit))]


def test_examples_stay_on_disk_until_they_are_used(rows, tokenizer):
    folder = stored(rows, tokenizer)
    before = pa.total_allocated_bytes()
    suite, _ = read_store(folder)
    assert sum(len(task.examples[1:]) for task in suite.tasks.values()) == 2 + 3 + 8
    assert suite.tasks["kind"].examples._rows().num_rows == 9
    # what is mapped is the file itself
    assert pa.total_allocated_bytes() - before < 4096


def test_a_store_that_is_removed_meanwhile_is_read_to_the_end(rows, tokenizer):
    folder = stored(rows, tokenizer)
    suite, _ = read_store(folder)
    every = list(suite.tasks["kind"].examples)
    rmtree(folder)
    assert list(suite.tasks["kind"].examples) == every


def never(*arguments, **options):
    raise AssertionError("rendered anew")


def test_the_second_time_nothing_is_read_or_rendered(rows, tokenizer, monkeypatch):
    def prepared():
        return prepare_suite([SourceSpec(str(rows))], "house_rules", Renderer(tokenizer), 1)

    first, notes = prepared()
    monkeypatch.setattr(Renderer, "measure", never)
    monkeypatch.setattr("headstart.tasks.reading.folder.read_rows", never)
    second, again = prepared()
    assert again == notes
    assert {name: list(task.examples) for name, task in second.tasks.items()} == {
        name: list(task.examples) for name, task in first.tasks.items()
    }
    assert (second.splits, second.revision) == (first.splits, first.revision)


def test_all_that_decides_gives_another_store(rows, tokenizer, monkeypatch):
    other, changed, spaced = build_tokenizer(), build_tokenizer(), build_tokenizer()
    other.add_tokens(["grün"])
    changed.chat_template = CHAT_TEMPLATE.replace("Be brief", "Be long")
    spaced.padding_side = "left"
    folders = [
        planned(rows, tokenizer).folder,
        planned(rows, other).folder,
        planned(rows, changed).folder,
        planned(rows, tokenizer, regime="house_rules").folder,
        planned(rows, tokenizer, regime="house_rules", seed=1).folder,
        planned(rows, tokenizer, regime="mixed").folder,
        planned(rows, tokenizer, max_examples=2).folder,
        planned(rows, tokenizer, exclude=("text",)).folder,
        planned(rows, tokenizer, redrawn=Redrawn(codes=True)).folder,
        planned(rows, tokenizer, redrawn=Redrawn(wording=True)).folder,
    ]
    with monkeypatch.context() as patch:
        patch.setattr("headstart.tasks.prepare.code_digest", lambda: "other code")
        folders.append(planned(rows, tokenizer).folder)
    (rows / "text.jsonl").write_text('{"input": "a", "output": "b"}\n')
    folders.append(planned(rows, tokenizer).folder)
    assert len(set(folders)) == len(folders)


def test_what_decides_nothing_gives_the_same_store(rows, tokenizer):
    again = build_tokenizer()
    again("some text", padding="max_length", truncation=True, max_length=8)
    assert planned(rows, again).folder == planned(rows, tokenizer).folder == planned(rows, tokenizer, seed=9).folder


def left(folder):
    return {path for path in folder.iterdir() if not path.name.startswith(".")}


def test_an_error_leaves_no_store(rows, tokenizer, own_stores, monkeypatch):
    before = left(own_stores)
    write(rows / "kind.jsonl", [{"input": "1", "output": "no"}, {"input": "2", "output": 3}])
    plan = planned(rows, tokenizer)
    with pytest.raises(SuiteError, match=r"kind.jsonl, line 2: `output` is a number"):
        prepare(plan, Renderer(tokenizer))
    assert not is_stored(plan.folder)
    assert left(own_stores) == before


def test_what_was_left_out_by_a_report_is_not_kept_for_others(rows, tokenizer, own_stores):
    write(rows / "kind.jsonl", [{"input": "1", "output": "no"}, {"input": "2", "output": 3}])
    before, plan, told = left(own_stores), planned(rows, tokenizer), []
    suite, _ = read_store(prepare(plan, Renderer(tokenizer), told.append))
    assert [len(task.examples) for task in suite.tasks.values()] == [3, 4, 1]
    assert len(told) == 1
    assert left(own_stores) == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


DAMAGES = {
    "no index": lambda folder: (folder / INDEX).unlink(),
    "no examples": lambda folder: (folder / EXAMPLES).unlink(),
    "cut index": lambda folder: cut(folder / INDEX),
    "cut examples": lambda folder: cut(folder / EXAMPLES),
    "empty examples": lambda folder: (folder / EXAMPLES).write_bytes(b""),
    "empty index": lambda folder: (folder / INDEX).write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_that_is_not_whole_is_none(rows, tokenizer, damage):
    folder = stored(rows, tokenizer)
    assert is_stored(folder)
    DAMAGES[damage](folder)
    assert not is_stored(folder)


def test_a_writer_that_dies_leaves_no_store(tmp_path, toy_suite):
    with pytest.raises(KeyboardInterrupt), Writer.into(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / EXAMPLES).exists()
    assert not is_stored(tmp_path)


def test_stores_that_are_old_or_not_whole_are_forgotten(rows, tokenizer, tmp_path, monkeypatch):
    folder, month = tmp_path / "stores", time.time() - 31 * 86400
    whole = stored(rows, tokenizer)
    monkeypatch.setattr(store, "stores_folder", lambda: folder)
    for name in ("old", "read", "new", "cut", ".old", ".written"):
        copytree(whole, folder / name)
        os.utime(folder / name, (month, month) if name in ("old", "read", ".old") else None)
    read_store(folder / "read")
    for name in ("cut", ".written"):
        cut(folder / name / EXAMPLES)
    forget_old_stores()
    assert {path.name for path in folder.iterdir()} == {"read", "new", ".written"}


def test_a_store_that_may_not_be_touched_is_read(rows, tokenizer, monkeypatch):
    folder = stored(rows, tokenizer)

    def refusing(path):
        raise PermissionError(path)

    monkeypatch.setattr(store.os, "utime", refusing)
    assert len(read_store(folder)[0].tasks) == 3


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ANSWERS = ANY.filter(str.strip)
TALK = st.lists(st.tuples(ANY, ANSWERS), max_size=2).map(
    lambda talk: tuple(turn for q, a in talk for turn in (("user", q), ("assistant", a)))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(ANY.filter(str.strip), ANSWERS, TALK), min_size=1, max_size=4, unique_by=lambda row: row[0].strip()))
def test_any_examples_come_back(tokenizer, rows):
    task = Task("t", "Do.", tuple(Example(*row) for row in rows), "c")
    source = of_suite(TaskSuite("s", {"t": task}, {"meta_train": ("t",)}, revision=str(hash(task))))
    renderer = Renderer(tokenizer)
    plan = Plan.made([(SourceSpec("s"), source)], "instructed", renderer, 0)
    found = read_store(prepare(plan, renderer, refuse))[0].tasks["t"]
    assert tuple(found.examples) == task.examples
    assert [(one.tokens.ids, one.tokens.answer) for one in found.examples] == [
        (one.ids, one.answer) for one in renderer.measure("Do.", task.examples)
    ]
