"""Making a suite fit a run."""

import json
from dataclasses import asdict, replace

import pytest
from tiny import CHAT_TEMPLATE, build_tokenizer

from headstart.tasks.codes import SYLLABLES
from headstart.tasks.episodes import NOTHING_REDRAWN, Redrawn, training_episode
from headstart.tasks.prepare import Plan, leave_out_long, prepare, prepare_suite, spread
from headstart.tasks.problems import DataError
from headstart.tasks.reading import folder as folder_reader
from headstart.tasks.render import Renderer
from headstart.tasks.samplers import task_weights
from headstart.tasks.sources import open_suite
from headstart.tasks.spec import SourceSpec
from headstart.tasks.store import EXAMPLES, read_store
from headstart.tasks.task import Example, SuiteError


def test_nothing_is_left_out_of_a_suite_that_fits(toy_suite, tokenizer):
    suite, notes = leave_out_long(toy_suite, Renderer(tokenizer), 24)
    assert suite.tasks == toy_suite.tasks
    assert notes == []


def test_long_examples_go_and_are_counted(toy_suite, tokenizer):
    task = toy_suite.tasks["upper"]
    longer = replace(task, examples=(*task.examples, Example("long", "x" * 400)))
    suite, notes = leave_out_long(replace(toy_suite, tasks={**toy_suite.tasks, "upper": longer}), Renderer(tokenizer, 300), 24)
    assert suite.tasks["upper"] == task
    assert notes == ["upper: 1 of 25 examples over 300 tokens left out"]


def test_a_task_left_with_too_little_goes_with_a_note(toy_suite, tokenizer):
    task = toy_suite.tasks["upper"]
    short = replace(task, examples=task.examples[:10])
    suite, notes = leave_out_long(replace(toy_suite, tasks={**toy_suite.tasks, "upper": short}), Renderer(tokenizer), 24)
    assert "upper" not in suite.tasks
    assert "upper" not in suite.splits["meta_train"]
    assert notes == ["upper: left out, its 10 examples are fewer than the 24 that an episode takes"]


def test_a_split_without_tasks_is_refused(toy_suite, tokenizer):
    with pytest.raises(SuiteError, match="lower"):
        leave_out_long(toy_suite, Renderer(tokenizer), 25)


def test_spread_takes_clusters_in_turn(toy_suite):
    tasks = toy_suite.split("meta_train")
    assert [task.name for task in spread(tasks, 3)] == ["upper", "reverse", "title"]
    assert len(spread(tasks, None)) == len(tasks)


def test_a_labelled_example_must_fit_with_every_label(toy_suite, tokenizer):
    task = toy_suite.tasks["vowel"]
    wordy = replace(task, labels=(*task.labels, "x" * 400))
    renderer = Renderer(tokenizer, 300)
    assert renderer.fitting(task.instruction, task.examples) == list(task.examples)
    with pytest.raises(SuiteError, match="no task of 'meta_validation' is left"):
        leave_out_long(replace(toy_suite, tasks={**toy_suite.tasks, "vowel": wordy}), renderer, 1)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    """A suite's folder of two tasks of three examples each, one of them long."""
    entries = [{"name": name, "file": f"{name}.jsonl", "instruction": "Do.", "cluster": name, "labels": ["yes"]} for name in "ab"]
    for name in "ab":
        write(tmp_path / "one" / f"{name}.jsonl", [{"input": text, "output": "yes"} for text in ("one", "two", "long " * 100)])
    (tmp_path / "one" / "tasks.json").write_text(json.dumps(entries))
    (tmp_path / "one" / "splits.json").write_text(json.dumps({"meta_train": ["a"], "meta_test": ["b"]}))
    return tmp_path / "one"


@pytest.fixture
def files(tmp_path):
    """A folder of ten plain files."""
    for number in range(10):
        write(tmp_path / "two" / f"t{number}.jsonl", [{"input": f"i{n}", "output": f"o{number} {n}"} for n in range(number + 2)])
    return tmp_path / "two"


def prepared(*specs, tokenizer, regime="instructed", needed=1, seed=0, max_length=300, redrawn=NOTHING_REDRAWN):
    return prepare_suite(specs, regime, Renderer(tokenizer, max_length), needed, seed, redrawn)


def test_a_suite_is_opened_put_under_its_regime_and_cut(folder, tokenizer):
    suite, notes = prepared(SourceSpec(str(folder)), tokenizer=tokenizer, regime="house_rules", needed=2)
    # the outputs are all the same
    warned = "2 warnings on rows and tasks, such as repeated inputs left out; `headstart check` lists them"
    assert notes == [warned, *(f"{name}: 1 of 3 examples over 300 tokens left out" for name in "ab")]
    assert suite.splits == {"meta_train": ("a",), "meta_test": ("b",)}
    for task in suite.tasks.values():
        assert [example.input for example in task.examples] == ["one", "two"]
        assert task.instruction == ""
        assert task.labels != ("yes",)
        assert {example.output for example in task.examples} == set(task.labels)


def test_mixed_holds_every_task_both_ways_in_one_split(folder, tokenizer):
    suite, _ = prepared(SourceSpec(str(folder)), tokenizer=tokenizer, regime="mixed")
    assert suite.splits == {"meta_train": ("a", "a@house_rules"), "meta_test": ("b", "b@house_rules")}
    assert [suite.tasks[name].instruction for name in ("a", "a@house_rules")] == ["Do.", ""]
    assert suite.tasks["a"].labels == ("yes",) != suite.tasks["a@house_rules"].labels


def test_classifications_or_generations_alone(folder, files, tokenizer):
    free, notes = prepared(SourceSpec(str(folder)), SourceSpec(str(files), types=("generation",)), tokenizer=tokenizer)
    assert {f"two/t{number}" for number in range(2, 10)} < set(free.tasks)
    assert not any("by types" in note for note in notes)
    with pytest.raises(DataError, match=r"no task is left: all were left out \(10 by types\)"):
        prepared(SourceSpec(str(folder)), SourceSpec(str(files), types=("classification",)), tokenizer=tokenizer)
    labelled, _ = prepared(SourceSpec(str(folder), types=("classification",)), tokenizer=tokenizer, regime="mixed")
    assert set(labelled.tasks) == {"a", "b", "a@house_rules", "b@house_rules"}


def test_house_rules_are_drawn_by_the_seed(folder, tokenizer):
    labels = [
        prepared(SourceSpec(str(folder)), tokenizer=tokenizer, regime="house_rules", seed=seed)[0].tasks["a"].labels for seed in (0, 0, 1)
    ]
    assert labels[0] == labels[1] != labels[2]


def test_sources_are_put_together_with_their_weights(folder, files, tokenizer):
    suite, notes = prepared(SourceSpec(str(folder), weight=3.0), SourceSpec(str(files), min_examples=4), tokenizer=tokenizer)
    assert notes[0] == "two: 2 tasks left out, 2 by min_examples"
    assert suite.name == "one+two"
    assert set(suite.tasks) == {"one/a", "one/b", *(f"two/t{number}" for number in range(2, 10))}
    assert (suite.origin("one/a"), suite.origin("two/t5")) == ("one", "two")
    assert suite.shares == {"one": 3.0, "two": 1.0}
    assert {split: len(names) for split, names in suite.splits.items()} == {"meta_train": 1 + 6, "meta_validation": 1, "meta_test": 1 + 1}
    weights = dict(zip(suite.splits["meta_train"], task_weights(suite, suite.split("meta_train")), strict=True))
    assert weights["one/a"] == pytest.approx(0.75)
    assert sum(weights.values()) == pytest.approx(1)


def test_a_source_may_be_there_twice(files, tokenizer):
    suite, _ = prepared(SourceSpec(str(files), max_examples=2), SourceSpec(str(files), max_examples=3), tokenizer=tokenizer)
    assert (suite.origin("two/t9"), suite.origin("two#1/t9")) == ("two", "two#1")
    assert [len(suite.tasks[name].examples) for name in ("two/t9", "two#1/t9")] == [2, 3]


def test_a_source_alone_and_among_others_holds_out_the_same(folder, files, tokenizer):
    alone, _ = prepared(SourceSpec(str(files)), tokenizer=tokenizer)
    together, _ = prepared(SourceSpec(str(folder)), SourceSpec(str(files), max_examples=3), tokenizer=tokenizer)
    for split, names in alone.splits.items():
        assert tuple(f"two/{name}" for name in names) == tuple(name for name in together.splits[split] if name.startswith("two/"))


def test_examples_that_the_template_refuses_are_told_with_their_places(tmp_path, both_ways):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if messages[-1]['content'] == 'bad' %}{{ raise_exception('no bad answers') }}{% endif %}"
    write(tmp_path / "a.jsonl", [{"input": str(n), "output": "bad" if n in (2, 5) else f"good {n}"} for n in range(7)])
    seen = []

    def read(report):
        renderer = Renderer(tokenizer)
        plan = Plan.of([SourceSpec(str(tmp_path), splits={"meta_train": 1.0})], "instructed", renderer, 0)
        suite, _ = read_store(prepare(plan, renderer, report, lambda task, lengths: seen.append((task, lengths))))
        return suite.tasks["a"].examples

    good = both_ways(read, "no bad answers", "no bad answers")
    assert {example.output for example in good} == {f"good {n}" for n in (0, 1, 3, 4, 6)}
    ((task, lengths),) = seen
    assert [place.row for place in task.places] == [int(example.input) + 1 for example in task.task.examples]
    assert list(lengths) == [len(example.tokens.ids) for example in good]


def test_what_lies_in_part_is_prepared_anew(folder, tokenizer):
    """As after a machine went down before its disk had everything."""
    prepared(SourceSpec(str(folder)), tokenizer=tokenizer)
    path = Plan.of([SourceSpec(str(folder))], "instructed", Renderer(tokenizer), 0).folder / EXAMPLES
    path.write_bytes(path.read_bytes()[:100])
    again, _ = prepared(SourceSpec(str(folder)), tokenizer=tokenizer)
    assert list(again.tasks["a"].examples) == [Example("one", "yes"), Example("two", "yes")]


def test_the_builtin_suite_is_prepared(tokenizer):
    suite, _ = prepare_suite([SourceSpec("builtin")], "instructed", Renderer(tokenizer), 1)
    whole = open_suite("builtin")
    assert (suite.name, suite.revision, suite.splits) == ("builtin", whole.revision, whole.splits)
    assert all(list(suite.tasks[name].examples) == list(task.examples) for name, task in whole.tasks.items())


def test_excluded_tasks_are_in_no_split_under_any_regime(files, tokenizer):
    suite, notes = prepared(SourceSpec(str(files), exclude=("t[3-5]", "t9", "*2*")), tokenizer=tokenizer, regime="mixed")
    left = {f"t{number}{way}" for number in (0, 1, 6, 7, 8) for way in ("", "@house_rules")}
    assert set(suite.tasks) == {name for names in suite.splits.values() for name in names} == left
    assert notes[0] == "two: 5 tasks left out, 5 by exclude"


def test_patterns_are_of_the_sources_own_names(folder, files, tokenizer):
    suite, _ = prepared(SourceSpec(str(folder)), SourceSpec(str(files), exclude=("t9",)), tokenizer=tokenizer)
    assert "two/t8" in suite.tasks
    assert "two/t9" not in suite.tasks
    with pytest.raises(DataError, match=r"the pattern 'two/\*' matches none of the 10 tasks"):
        prepared(SourceSpec(str(folder)), SourceSpec(str(files), exclude=("two/*",)), tokenizer=tokenizer)


def test_a_pattern_may_match_what_another_filter_takes(files, tokenizer):
    _, notes = prepared(SourceSpec(str(files), exclude=("t0", "t9"), min_examples=4), tokenizer=tokenizer)
    assert notes[0] == "two: 3 tasks left out, 2 by exclude, 1 by min_examples"


@pytest.mark.parametrize("pattern", ["T9", "t9?", "9", ""])
def test_a_pattern_that_leaves_nothing_out_is_an_error(files, tokenizer, both_ways, pattern):
    """What it was meant for would be trained on."""
    renderer = Renderer(tokenizer)

    def read(report):
        plan = Plan.of([SourceSpec(str(files), exclude=("t1", pattern))], "instructed", renderer, 0)
        return read_store(prepare(plan, renderer, report))[0].tasks

    assert len(both_ways(read, f"{files}: exclude: the pattern {pattern!r} matches none of the 10 tasks of the source")) == 9


def test_where_splits_name_the_tasks_such_a_pattern_is_told_before_any_is_read(folder, tokenizer, monkeypatch):
    monkeypatch.setattr(folder_reader, "read_rows", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match="'c' matches none of the 2 tasks"):
        prepared(SourceSpec(str(folder), exclude=("c",)), tokenizer=tokenizer)


def test_the_revision_tells_of_what_is_excluded_and_of_nothing_where_nothing_is(files, tokenizer):
    def revision(**options):
        return Plan.of([SourceSpec(str(files), **options)], "instructed", Renderer(tokenizer), 0).revision

    assert len({revision(), revision(weight=2.0), revision(weight=2.0, exclude=("t1",)), revision(exclude=("t1",))}) == 4
    # as a spec had it before there were patterns
    assert "exclude" in asdict(SourceSpec("a"))
    assert revision(weight=2.0, exclude=None) == revision(weight=2.0)


@pytest.fixture
def uneven():
    """A tokenizer that knows half of all syllables, so that these are a token and the others three."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(list(SYLLABLES[::2]))
    return tokenizer


@pytest.fixture
def classes(tmp_path):
    """A suite's folder of one classification of forty examples, each of another length, with wordings of its instruction."""
    rows = [{"input": f"{'x' * number} {chr(97 + number)}", "output": ("yes", "nay")[number % 2]} for number in range(40)]
    write(tmp_path / "classes" / "a.jsonl", rows)
    about = {"instruction": "Say yes or nay.", "labels": ["yes", "nay"], "instruction_variants": ["Yes?", "Say yes, or else say nay."]}
    (tmp_path / "classes" / "tasks.json").write_text(json.dumps([{"name": "a", "file": "a.jsonl", "cluster": "c", **about}]))
    (tmp_path / "classes" / "splits.json").write_text(json.dumps({"meta_train": ["a"]}))
    return SourceSpec(str(tmp_path / "classes"))


def rendered(suite, renderer, redrawn, steps=60):
    """The lengths of all examples that some training steps draw, rendered as training does."""
    lengths = set()
    for step in range(steps):
        for draw in training_episode(suite, seed=0, step=step, tasks=1, support=6, query=6, redrawn=redrawn):
            lengths |= {len(one.ids) for one in renderer.render(draw.task.instruction, [*draw.support[0], *draw.query])}
    return lengths


REDRAWN = {"house_rules": Redrawn(codes=True), "instructed": Redrawn(wording=True)}


@pytest.mark.parametrize("regime", REDRAWN)
def test_what_is_left_fits_whatever_is_drawn(classes, uneven, regime):
    redrawn = REDRAWN[regime]
    # a seed whose own codes are a token each
    seed = next(s for s in range(99) if not set(labels(classes, uneven, s)) - set(SYLLABLES[::2])) if regime == "house_rules" else 0
    whole, _ = prepared(classes, tokenizer=uneven, regime=regime, seed=seed, max_length=500)
    longest = sorted(len(example.tokens.ids) for example in whole.tasks["a"].examples)[-5]
    options = {"tokenizer": uneven, "regime": regime, "seed": seed, "max_length": longest}
    unaware, _ = prepared(classes, **options)
    with pytest.raises(SuiteError, match=f"over the limit of {longest}"):
        rendered(unaware, Renderer(uneven, longest), redrawn)
    suite, notes = prepared(classes, redrawn=redrawn, **options)
    kept, before = suite.tasks["a"].examples, unaware.tasks["a"].examples
    assert max(rendered(suite, Renderer(uneven, longest), redrawn)) == longest
    assert notes == [f"a: {40 - len(kept)} of 40 examples over {longest} tokens left out"]
    # no more are left out than have to be
    more = 2 if regime == "house_rules" else len("Say yes, or else say nay.") - len("Say yes or nay.")
    assert list(kept) == [example for example in before if len(example.tokens.ids) + more <= longest]
    assert 12 < len(kept) < len(before)


def labels(spec, tokenizer, seed):
    return prepared(spec, tokenizer=tokenizer, regime="house_rules", seed=seed)[0].tasks["a"].labels


def test_examples_whose_codes_change_have_no_kept_tokens_and_others_have(classes, uneven):
    ruled, plain = (prepared(classes, tokenizer=uneven, regime=regime)[0] for regime in ("house_rules", "instructed"))
    for suite, redrawn, kept in [(ruled, Redrawn(codes=True), False), (ruled, NOTHING_REDRAWN, True), (plain, Redrawn(codes=True), True)]:
        (draw,) = training_episode(suite, seed=0, step=0, tasks=1, support=6, query=6, redrawn=redrawn)
        assert {example.tokens is not None for example in (*draw.support[0], *draw.query)} == {kept}


def test_a_wording_that_the_template_refuses_is_told(classes):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if 'else' in messages[0]['content'] %}{{ raise_exception('nothing else') }}{% endif %}"
    prepared(classes, tokenizer=tokenizer)
    with pytest.raises(DataError, match=r"a label or wording of 'a' cannot be rendered: .*nothing else"):
        prepared(classes, tokenizer=tokenizer, redrawn=Redrawn(wording=True))


def test_what_no_task_has_cannot_be_redrawn_and_is_noted(classes, files, tokenizer):
    both = Redrawn(codes=True, wording=True)
    _, notes = prepared(SourceSpec(str(files)), tokenizer=tokenizer, regime="mixed", redrawn=both)
    assert [note.partition(" changes nothing: ")[0] for note in notes] == ["suite.codes: episode", "suite.paraphrase"]
    assert prepared(classes, tokenizer=tokenizer, regime="mixed", redrawn=both)[1] == []
    assert prepared(SourceSpec(str(files)), tokenizer=tokenizer, regime="mixed")[1] == []
