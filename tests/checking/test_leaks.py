"""Copied tasks are found across held-apart splits under every disguise, and honest ones that share inputs are not."""

import random
import shutil
from dataclasses import replace
from itertools import chain
from json import dumps, loads
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.checking.duplicates import Twins
from headstart.checking.leaks import folded_words, kappa
from headstart.tasks.problems import Place
from headstart.tasks.reading.source import ReadTask, of_suite
from headstart.tasks.sources import open_suite
from headstart.tasks.task import Example, Task

POOL = Path(__file__).parents[3] / "shared" / "pool"
NOUNS = ("phone", "lamp", "chair", "kettle", "printer", "jacket", "watch", "radio")
JUDGEMENTS = ("works as promised", "broke within a week", "looks better than on the pictures")
REVIEWS = [f"The {noun} that I bought in May {told}." for noun in NOUNS for told in JUDGEMENTS]


def task(name, answer, inputs=REVIEWS, instruction="Do it."):
    return Task(name, instruction, tuple(Example(text, answer(text)) for text in inputs), name)


def opinion(text):
    return "negative" if "broke" in text else "positive"


def topic(text):
    return "electric" if text.split()[1] in ("phone", "lamp", "kettle", "printer", "radio") else "other"


def found(trained, held, split="meta_test"):
    """What is said of two tasks of `meta_train` and another split."""
    twins = Twins({trained.name: "meta_train", held.name: split})
    for each in (held, trained):
        twins.add(ReadTask(each, [Place(f"{each.name}.jsonl", row) for row in range(1, len(each.examples) + 1)]))
    return list(twins.problems())


def errors(*tasks, **options):
    return [str(problem) for problem in found(*tasks, **options) if problem.level == "error"]


def with_examples(each, change):
    return replace(each, name="copy", cluster="another", labels=(), examples=tuple(change(list(each.examples))))


def each_row(change):
    return lambda held: with_examples(held, lambda rows: [Example(*change(row.input, row.output)) for row in rows])


def in_codes(held):
    codes = {output: f"K{number}" for number, output in enumerate(sorted({row.output for row in held.examples}, reverse=True))}
    return each_row(lambda text, output: (text, codes[output]))(held)


def shuffled(rows):
    return random.Random(0).sample(rows, len(rows))


DISGUISES = {
    "another name and cluster": lambda held: with_examples(held, list),
    "the instruction reworded": lambda held: replace(with_examples(held, list), instruction="Please go on as in the examples."),
    "the instruction dropped": lambda held: replace(with_examples(held, list), instruction=""),
    "the instruction moved into the input": lambda held: replace(
        each_row(lambda text, output: (f"{held.instruction}\n{text}", output))(held), instruction=""
    ),
    "rows shuffled": lambda held: with_examples(held, shuffled),
    "half of the rows": lambda held: with_examples(held, lambda rows: shuffled(rows)[: len(rows) // 2]),
    "upper case": each_row(lambda text, output: (text.upper(), output.upper())),
    "white space": each_row(lambda text, output: (text.replace(" ", " \n "), output.replace(" ", "\t"))),
    "labels in codes": in_codes,
}
HELD = {
    "two labels": task("held", opinion),
    "sentences": task("held", lambda text: f"They say: {text}"),
    "single words": task("held", lambda word: f"{word}s", NOUNS),
}


@pytest.mark.parametrize("split", ["meta_validation", "meta_test"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_copy_of_two_labels_is_found(disguise, split):
    (error,) = errors(DISGUISES[disguise](HELD["two labels"]), HELD["two labels"], split=split)
    for part in (
        "'copy' of 'meta_train'",
        f"'held' of '{split}'",
        "copy.jsonl, line",
        "held.jsonl, line",
        "take 'copy' out of 'meta_train'",
    ):
        assert part in error
    assert ("other names for the outputs" in error) == (disguise == "labels in codes")


@pytest.mark.parametrize("held", ["sentences", "single words"])
@pytest.mark.parametrize("disguise", [name for name in DISGUISES if name not in ("labels in codes", "half of the rows")])
def test_a_copy_of_free_answers_is_found(disguise, held):
    assert errors(DISGUISES[disguise](HELD[held]), HELD[held])


def test_the_share_is_that_of_the_smaller_task_and_the_row_is_the_same_in_both():
    held = HELD["two labels"]
    copy = with_examples(held, lambda rows: [*rows[20:8:-1], *(Example(f"Another one, {number}.", "no") for number in range(4))])
    (error,) = errors(copy, held)
    assert error.startswith("copy.jsonl, line 1: 12 of the 16 rows of 'copy' stand in both")
    assert "this one in held.jsonl, line 21;" in error


def test_a_copy_among_many_other_rows_is_found():
    held = HELD["two labels"]
    more = [Example(f"Something else entirely, number {number}.", "positive") for number in range(500)]
    assert "24 of the 24 rows of 'held'" in errors(with_examples(held, lambda rows: [*more, *rows]), held)[0]


def test_less_than_half_of_the_rows_is_no_copy():
    held = HELD["two labels"]
    others = [Example(f"Something else entirely, number {number}.", "positive") for number in range(13)]
    assert not errors(with_examples(held, lambda rows: [*others, *rows[:11]]), held)
    assert errors(with_examples(held, lambda rows: [*others[:11], *rows[:13]]), held)


def test_splits_that_are_not_held_apart_by_kind_may_share_tasks():
    held = HELD["two labels"]
    assert not errors(with_examples(held, list), held, split="in_distribution_test")
    assert not errors(with_examples(held, list), held, split="meta_train")


def test_another_question_about_the_same_inputs_is_noted():
    problems = found(task("topic", topic, instruction="Electric or other?"), HELD["two labels"])
    assert [problem.level for problem in problems] == ["note"]
    assert "24 of the 24 inputs of 'held' stand in both 'topic' of 'meta_train' and 'held' of 'meta_test'" in str(problems[0])
    assert "the same inputs, another question" in str(problems[0])


def test_a_copied_task_is_told_of_once():
    assert len(found(with_examples(HELD["two labels"], list), HELD["two labels"])) == 1


NUMBERS = [str(number) for number in range(60)]
PRIMES = {n for n in range(2, 60) if all(n % m for m in range(2, n))}
HONEST = {
    "even, prime": (lambda n: "no" if int(n) % 2 else "yes", lambda n: "yes" if int(n) in PRIMES else "no"),
    "twice, thrice": (lambda n: str(int(n) * 2), lambda n: str(int(n) * 3)),
    "next, last digit": (lambda n: str(int(n) + 1), lambda n: n[-1]),
}


@pytest.mark.parametrize("questions", HONEST)
def test_two_questions_about_the_same_numbers_are_no_leak(questions):
    one, other = HONEST[questions]
    assert not errors(task("one", one, NUMBERS), task("other", other, NUMBERS))


def test_case_matters_where_it_is_what_is_asked():
    assert not errors(task("upper", str.upper, NOUNS), task("title", str.title, NOUNS))
    assert errors(task("shout", str.upper, NOUNS), task("upper", str.upper, NOUNS))


def test_framed_numbers_are_told_apart_by_their_frames():
    """What is left of such inputs without their frames is a number, and the answers follow from it."""
    asked = {frame: task(frame, lambda text: text.split()[-1], [f"{frame} asks {n}" for n in range(30)]) for frame in ("one", "two")}
    assert not errors(asked["one"], asked["two"])


def test_a_few_rows_that_agree_by_chance_are_no_leak():
    inputs = ["a", "b", "c", "d"]
    assert not errors(task("one", lambda _: "yes", inputs), task("other", lambda _: "yes", inputs))
    assert not errors(*(task(name, lambda text: "yes" if text in "ab" else "no", inputs) for name in ("one", "other")))
    assert not errors(task("one", {"a": "yes"}.get, ["a"]), task("other", {"a": "yes"}.get, ["a"]))


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_labels_dealt_at_random_are_no_leak(seed, labels):
    """Kappa of independent labels on 200 rows has a deviation of about 0.07, so 0.5 is seven of them away."""
    draw = random.Random(seed)
    inputs = [str(number) for number in range(200)]
    assert not errors(*(task(name, lambda _: f"label {draw.randrange(labels)}", inputs) for name in ("one", "other")))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30))
def test_kappa_is_the_share_beyond_chance(pairs):
    """Chance is the share of equal pairs among all pairs of one's and another's outputs."""
    ours, theirs = (np.array(each) for each in zip(*pairs, strict=True))
    chance = float((ours[:, None] == theirs[None, :]).mean())
    agreed = float((ours == theirs).mean())
    assert kappa(ours, theirs) == pytest.approx((agreed - chance) / (1 - chance) if chance < 1 else 0)


def test_words_are_without_case_and_space_but_with_signs():
    assert folded_words("3+4") == folded_words(" 3 +\n4 ") == ["3", "+", "4"]
    assert folded_words("Straße") == folded_words("STRASSE")
    assert folded_words("") == [""]


def test_the_builtin_suite_leaks_nothing_until_a_task_is_copied():
    suite = open_suite("builtin")
    twins = Twins({"copy": "meta_train"} | {name: split for split, names in suite.splits.items() for name in names})
    for each in of_suite(suite).read(pytest.fail):
        twins.add(each)
    assert list(twins.leaks.problems()) == []
    copy = DISGUISES["half of the rows"](suite.tasks["animal_class"])
    twins.add(ReadTask(copy, [Place("copy.jsonl", row) for row in range(1, len(copy.examples) + 1)]))
    (problem,) = twins.leaks.problems()
    assert "64 of the 64 rows of 'copy'" in str(problem)
    assert "'animal_class' of 'meta_test'" in str(problem)


def plant(folder, name, disguise):
    """Copy a task of a suite's folder into `meta_train`, disguised; gives the copy's name."""
    index, splits, planted = folder / "instruct" / "tasks.json", folder / "splits.json", f"planted {disguise}"
    entries, content = loads(index.read_text()), loads(splits.read_text())
    (entry,) = (each for each in entries if each["name"] == name)
    rows = [loads(line) for line in (folder / entry["file"]).read_text().splitlines()]
    examples = tuple(Example(row["input"], row["output"]) for row in rows)
    copy = DISGUISES[disguise](Task(name, entry["instruction"], examples, entry["cluster"]))
    told = [{"instruction": copy.instruction, "input": row.input, "output": row.output} for row in copy.examples]
    (folder / f"{planted}.jsonl").write_text("".join(f"{dumps(row)}\n" for row in told))
    index.write_text(dumps([*entries, {"name": planted, "file": f"{planted}.jsonl", "cluster": planted, "instruction": copy.instruction}]))
    splits.write_text(dumps({**content, "meta_train": [*content["meta_train"], planted]}))
    return planted


@pytest.fixture
def part_of_the_pool(tmp_path):
    """Every sixteenth task of each split of the real tasks, and the one that is planted, as a suite's folder of its own."""
    if not (POOL / "splits.json").is_file():
        pytest.skip("there is no pool of real tasks beside the repository")
    splits = {split: names for split, names in loads((POOL / "splits.json").read_text()).items() if isinstance(names, list)}
    wanted = {split: [name for at, name in enumerate(names) if at % 16 == 0 or name == "olora__mnli"] for split, names in splits.items()}
    (tmp_path / "pool" / "instruct").mkdir(parents=True)
    (tmp_path / "pool" / "splits.json").write_text(dumps(wanted))
    entries = [each for each in loads((POOL / "instruct" / "tasks.json").read_text()) if each["name"] in {*chain(*wanted.values())}]
    (tmp_path / "pool" / "instruct" / "tasks.json").write_text(dumps(entries))
    for entry in entries:
        shutil.copyfile(POOL / entry["file"], tmp_path / "pool" / entry["file"])
    return tmp_path / "pool"


def test_real_tasks_that_are_planted_among_real_ones_are_found_and_no_others(look, part_of_the_pool):
    planted = [plant(part_of_the_pool, "olora__mnli", disguise) for disguise in ("half of the rows", "labels in codes")]
    errors = [str(problem) for problem in look(part_of_the_pool).problems if problem.level == "error"]
    assert len(errors) == 2
    for name, error in zip(planted, errors, strict=True):
        assert f"stand in both {name!r} of 'meta_train' and 'olora__mnli' of 'meta_test'" in error
