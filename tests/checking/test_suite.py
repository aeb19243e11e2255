"""A look at a suite: its sizes, every problem in one pass, and a second look that reads nothing."""

import json
import re
import shutil
import statistics
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from headstart.checking import suite as suite_module
from headstart.checking.check import check
from headstart.checking.findings import Findings
from headstart.checking.suite import BARS, Look, length_facts, look_at_suite
from headstart.files import WriteError
from headstart.tasks.episodes import Redrawn
from headstart.tasks.prepare import prepare_suite
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import SuiteError


def rows(name, count=6, **more):
    return [{"input": f"{name} asks {number}", "output": f"answer {number}", **more} for number in range(count)]


def told(findings, level):
    return [str(problem) for problem in findings.problems if problem.level == level]


@given(st.dictionaries(st.integers(1, 3000), st.integers(1, 50), max_size=30), st.integers(1, 2500))
def test_the_histogram_has_every_example_once(lengths, limit):
    facts = length_facts(lengths, limit)
    every = [length for length, count in lengths.items() for _ in range(count)]
    edges, bars = facts["edges"], facts["examples"]
    assert (len(edges), len(bars)) == (BARS + 1, BARS)
    assert sum(bars) + facts["over"] == len(every)
    assert bars == [sum(low < length <= high for length in every) for low, high in pairwise(edges)]
    assert edges == sorted(edges)
    assert facts["over"] == sum(length > limit for length in every)
    assert facts["median"] == (statistics.median_low(every) if every else 0)
    assert (facts["longest"], facts["tokens"]) == (max(every, default=0), sum(every))


def test_sizes_of_a_suite(look, toy_folder, toy_suite, tokenizer):
    findings = look(toy_folder)
    assert findings.problems == []
    assert findings.facts["splits"] == {
        "meta_train": {"tasks": 4, "clusters": 2, "examples": 96},
        "meta_validation": {"tasks": 1, "clusters": 1, "examples": 24},
        "meta_test": {"tasks": 1, "clusters": 1, "examples": 24},
    }
    assert findings.facts["licences"] == {"CC0-1.0": 6}
    assert findings.facts["languages"] == {"English": 6}
    assert findings.facts["suite"]["name"] == "toy"
    renderer = Renderer(tokenizer)
    # of a classification an example is as long as its longest label makes it
    lengths = [
        max(renderer.tokens(task.instruction, type(one)(one.input, label)) for label in task.labels or (one.output,))
        for task in toy_suite.tasks.values()
        for one in task.examples
    ]
    found = findings.facts["lengths"]
    assert (found["median"], found["longest"], found["tokens"]) == (statistics.median_low(lengths), max(lengths), sum(lengths))
    assert sum(found["examples"]) == len(lengths)


def test_terms_of_the_data_are_counted_where_any_are_named(look, write_suite):
    every = {name: rows(name) for name in ("one", "two", "three")}
    splits = {"meta_train": ["one", "two"], "meta_test": ["three"]}
    terms = {name: {"data_terms": "research only"} for name in ("one", "three")}
    assert look(write_suite(every, splits, **terms)).facts["data_terms"] == {"research only": 2, "none named": 1}
    assert "data_terms" not in look(write_suite(every, splits, folder="silent", two={"data_terms": ""})).facts


def test_a_pattern_that_excludes_nothing_is_told_with_all_else(write_suite, tiny_spec):
    every = {"one": rows("one"), "two": [*rows("two"), {"input": "lonely"}], "three": rows("three")}
    folder = write_suite(every, {"meta_train": ["one", "two"], "meta_test": ["three"]})
    findings = Findings("suite", "suite")
    look_at_suite(Look((SourceSpec(str(folder), exclude=("one", "four*")),), tiny_spec()), findings)
    pattern, row = told(findings, "error")
    assert pattern == f"{folder}: exclude: the pattern 'four*' matches none of the 3 tasks of the source; mend it, or take it out"
    assert "two.jsonl, line 7: `output` is missing" in row
    assert findings.facts["splits"] == {
        "meta_train": {"tasks": 1, "clusters": 1, "examples": 6},
        "meta_test": {"tasks": 1, "clusters": 1, "examples": 6},
    }


def test_lengths_are_those_of_what_is_drawn_anew(write_suite, tiny_spec):
    about = {"instruction": "Ask.", "instruction_variants": ["Ask, and be told."]}
    folder = write_suite({"one": rows("one"), "two": rows("two")}, {"meta_train": ["one"], "meta_test": ["two"]}, one=about)

    def longest(redrawn):
        findings = Findings("suite", "suite")
        look_at_suite(Look((SourceSpec(str(folder)),), tiny_spec(), redrawn=redrawn), findings)
        return findings.facts["lengths"]["longest"]

    assert longest(Redrawn(wording=True)) - longest(Redrawn()) == len("Ask, and be told.") - len("Ask.")


def spoilt(write_suite):
    """A suite with a fault in each of six files, what only warns in four more, and two good tasks."""
    faulty = {
        "no_json": rows("no_json"),
        "no_output": [*rows("no_output"), {"input": "lonely"}],
        "number": [*rows("number"), {"input": "how many", "output": 3}],
        "empty": [*rows("empty"), {"input": "silence", "output": " "}],
        "stray": [*({**row, "output": "yes"} for row in rows("stray", 3)), *({**row, "output": "no"} for row in rows("astray", 3))],
        "half": [*rows("half"), {"input": "half \ud800", "output": "a pair"}],
    }
    good = {"plain": rows("plain"), "plainer": rows("plainer")}
    bad = {
        "unlicensed": rows("unlicensed"),
        "constant": [{**row, "output": "same"} for row in rows("constant")],
        "again": [*rows("again"), {"input": "again asks 2", "output": "another"}],
        "shared": rows("shared"),
    }
    every = {**faulty, **good, **bad}
    held = {"meta_validation": ["plainer"], "meta_test": ["shared"]}
    splits = {"meta_train": [name for name in every if name not in ("plainer", "shared")], **held}
    about = {"stray": {"labels": ["yes", "maybe"]}, "unlicensed": {"licence": ""}, "shared": {"cluster": "plain"}}
    folder = write_suite(every, splits, **about)
    with (folder / "no_json.jsonl").open("a") as file:
        file.write('{"input": "cut\n')
    return folder


FAULTS = {
    "no_json.jsonl, line 7": "not valid JSON",
    "no_output.jsonl, line 7": "`output` is missing",
    "number.jsonl, line 7": "`output` is a number, not text; put it in quotes",
    "empty.jsonl, line 7": "`output` is empty",
    "stray.jsonl, line 4": "`output` 'no' is not among the labels of 'stray': yes, maybe",
    "half.jsonl, line 7": "`input` holds half of a surrogate pair",
}
WARNINGS = (
    "1 of 12 tasks name no licence (unlicensed)",
    "all 6 rows of 'constant' have the output 'same'",
    "again.jsonl, line 7: the input of line 3 again with another output",
    "the cluster 'plain' is in meta_test and meta_train, so that kind of task is not held out",
)


def test_every_kind_of_problem_is_told_in_one_pass(look, write_suite):
    findings = look(spoilt(write_suite))
    errors = told(findings, "error")
    for where, what in FAULTS.items():
        (one,) = (error for error in errors if where in error)
        assert what in one
    # rows four to six of the stray task are no label
    assert len(errors) == len(FAULTS) + 2
    warnings = told(findings, "warning")
    for wanted in WARNINGS:
        assert any(wanted in warning for warning in warnings), wanted
    # what is left of a faulty task is counted too, and so are those without a fault
    assert findings.facts["splits"]["meta_train"] == {"tasks": 10, "clusters": 10, "examples": 57}
    assert findings.facts["splits"]["meta_test"] == {"tasks": 1, "clusters": 1, "examples": 6}


def test_a_held_out_task_that_was_copied_into_training_is_an_error(look, write_suite, toy_suite):
    every = {name: [{"input": row.input, "output": row.output} for row in task.examples] for name, task in toy_suite.tasks.items()}
    every["other"] = every["twice"][::-2]
    findings = look(write_suite(every, {**toy_suite.splits, "meta_train": [*toy_suite.splits["meta_train"], "other"]}))
    (error,) = told(findings, "error")
    assert "12 of the 12 rows of 'other' stand in both 'other' of 'meta_train' and 'twice' of 'meta_test'" in error


def test_a_suite_with_errors_leaves_no_store_that_training_would_take(look, write_suite, own_stores, tokenizer):
    folder = spoilt(write_suite)
    before = set(own_stores.glob("*"))
    assert look(folder).errors
    assert set(own_stores.glob("[!.]*")) <= before
    with pytest.raises(SuiteError, match=r"no_json\.jsonl, line 7"):
        prepare_suite([SourceSpec(str(folder))], "instructed", Renderer(tokenizer), 2)


def test_a_split_that_is_left_empty_is_an_error_of_its_own(look, write_suite):
    folder = write_suite({"a": rows("a"), "b": [{"input": "x", "output": ""}]}, {"meta_train": ["a"], "meta_validation": ["b"]})
    errors = told(look(folder), "error")
    assert any("b.jsonl, line 1" in error for error in errors)
    assert any("no task of 'meta_validation' is left" in error for error in errors)


@pytest.mark.parametrize("target", ["gone", "gone/deeper", "empty"])
def test_what_is_no_suite_is_told(look, tmp_path, target):
    (tmp_path / "empty").mkdir()
    findings = look(tmp_path / target)
    assert findings.errors == 1
    assert str(tmp_path / target) in told(findings, "error")[0]


def test_long_examples_are_counted_and_noted(look, write_suite):
    every = {"a": [*rows("a"), {"input": "long " * 200, "output": "x"}], "b": rows("b")}
    findings = look(write_suite(every, {"meta_train": ["a"], "meta_validation": ["b"]}))
    assert findings.errors == 0
    assert findings.facts["lengths"]["over"] == 1
    assert told(findings, "note") == ["a: 1 of 7 examples over 512 tokens left out"]


@pytest.fixture
def reading(monkeypatch):
    """Counts the times that a suite was read."""
    count, real = Counter(), suite_module._looked

    def looked(*arguments):
        count["read"] += 1
        return real(*arguments)

    monkeypatch.setattr(suite_module, "_looked", looked)
    return count


def test_a_second_look_reads_nothing_and_finds_the_same(look, write_suite, monkeypatch, own_cache):
    folder = spoilt(write_suite)
    first = look(folder)
    assert len(list((own_cache / "checks").glob("*.json"))) == 1
    monkeypatch.setattr("headstart.tasks.reading.folder.read_rows", lambda *_: pytest.fail("rows were read"))
    monkeypatch.setattr("headstart.tasks.prepare.prepare", lambda *_: pytest.fail("the suite was prepared"))
    second = look(folder)
    assert second.as_json() == first.as_json()
    assert list(map(str, second.problems)) == list(map(str, first.problems))


def flip(path, at=-3):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_what_is_changed_is_looked_at_again(toy_folder, tiny_folder, tiny_spec, tmp_path, reading):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    spec = type(tiny_spec())(id="test/tiny", source=str(base))

    def read(**options):
        before = reading["read"]
        check(toy_folder, base=spec, **options)
        return reading["read"] - before

    assert read() == 1
    assert read() == 0
    flip(toy_folder / "upper.jsonl")
    assert (read(), read()) == (1, 0)
    with (toy_folder / "splits.json").open("a") as file:
        file.write("\n")
    assert (read(), read()) == (1, 0)
    assert (read(max_length=300), read(max_length=300)) == (1, 0)
    template = base / "chat_template.jinja"
    template.write_text(template.read_text().replace("Be brief", "Be short"))
    assert (read(), read()) == (1, 0)


def test_kept_findings_that_are_cut_off_are_made_again(look, toy_folder, own_cache, reading):
    first = look(toy_folder)
    (kept,) = (own_cache / "checks").glob("*.json")
    for content in (kept.read_text()[:50], "[]", "{}"):
        kept.write_text(content)
        assert look(toy_folder).as_json() == first.as_json()
    assert reading["read"] == 4


def test_a_cache_that_cannot_be_written_is_gone_without(look, toy_folder, own_cache, reading):
    own_cache.write_text("a file where the cache should be")
    assert look(toy_folder).errors == 0
    assert look(toy_folder).errors == 0
    assert reading["read"] == 2


TEXTS = st.one_of(st.sampled_from(["", " ", "a", "b", "yes", "no", "A", "é😀", "\ud800", "x" * 300]), st.text(max_size=8))
VALUES = st.one_of(TEXTS, st.none(), st.integers(), st.booleans(), st.just(float("nan")))
ROWS = st.one_of(
    st.fixed_dictionaries({"input": TEXTS, "output": st.sampled_from(["yes", "no", "maybe"])}),
    st.fixed_dictionaries({"input": VALUES, "output": VALUES}),
    st.fixed_dictionaries({"input": TEXTS}, optional={"instruction": TEXTS, "output": TEXTS}),
    st.sampled_from([3, [], {}, "text"]),
)
LABELS = st.sampled_from([[], ["yes", "no"], ["yes", "no", "maybe"], ["yes", "yes"], [" yes", "no"], "yes"])
ANY = st.tuples(st.lists(ROWS, max_size=5), LABELS, st.sampled_from(["c", "d", None]))
GOOD = st.tuples(st.integers(2, 5).map(lambda count: rows("it", count)), st.just([]), st.sampled_from(["c", "d"]))


def suites(task, more):
    """Tasks by split, and what else the last split names: a task that there is not, or one that may be held out already."""
    tasks = st.lists(task, min_size=1, max_size=2)
    return st.tuples(st.fixed_dictionaries({"meta_train": tasks}, optional={"meta_validation": tasks, "meta_test": tasks}), more)


FAULTLESS, ANY_SUITE = suites(GOOD, st.none()), suites(st.one_of(GOOD, ANY), st.sampled_from([None, "unknown", "t0"]))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.one_of(FAULTLESS, ANY_SUITE))
def test_check_finds_an_error_exactly_where_preparing_raises_one(drawn, tmp_path_factory, tiny_spec, tokenizer):
    suite, more = drawn
    folder, entries, splits = tmp_path_factory.mktemp("any"), [], {}
    for split, tasks in suite.items():
        splits[split] = [f"t{number}" for number in range(len(entries), len(entries) + len(tasks))]
        for name, (lines, labels, cluster) in zip(splits[split], tasks, strict=True):
            (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            entries.append({"name": name, "file": f"{name}.jsonl", "cluster": cluster, "labels": labels})
    splits[next(reversed(splits))] += [more] if more else []
    (folder / "tasks.json").write_text(json.dumps(entries))
    (folder / "splits.json").write_text(json.dumps(splits))
    # copied tasks can be trained on, though a check refuses them
    errors = [error for error in told(check(folder, base=tiny_spec(), max_length=200), "error") if "must not be trained on" not in error]
    event("errors" if errors else "none")
    # what stops preparing is the first that is found
    with pytest.raises(SuiteError, match=f"^{re.escape(errors[0])}$") if errors else nullcontext():
        prepare_suite([SourceSpec(str(folder))], "instructed", Renderer(tokenizer, 200), 2)


def test_what_the_machine_has_wrong_is_not_kept(look, toy_folder, own_cache, monkeypatch):
    """The same data is right as soon as there is room for it again."""

    def full(*_):
        raise WriteError("suites: cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("headstart.tasks.prepare.prepare", full)
        assert ["No space left" in str(problem) for problem in look(toy_folder).problems] == [True]
    assert not list((own_cache / "checks").glob("*.json"))
    assert look(toy_folder).errors == 0
