"""Twins are found where they should not stand, and nowhere else."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.checking import duplicates
from headstart.checking.duplicates import PERMUTATIONS, Twins, near, near_repeats
from headstart.tasks.problems import Place
from headstart.tasks.reading.source import ReadTask, of_suite
from headstart.tasks.sources import open_suite
from headstart.tasks.task import Example, Task

WORDS = [f"word{number}" for number in range(5000)]


def text(seed, words=30):
    return " ".join(random.Random(seed).sample(WORDS, words))


def changed(one, word=-1):
    """A text with one word changed, the last if no other is asked for: of 28 runs of three, one is another."""
    words = one.split(" ")
    words[word] = "other"
    return " ".join(words)


def read(name, inputs, instruction="Do it."):
    """A task as it is read, a line a row."""
    examples = tuple(Example(one, f"answer {number}") for number, one in enumerate(inputs))
    return ReadTask(Task(name, instruction, examples, name), [Place(f"{name}.jsonl", row) for row in range(1, len(inputs) + 1)])


def found(*tasks):
    """What is found, the first word of a task's name being its split."""
    twins = Twins({each.task.name: each.task.name.split("_")[0] for each in tasks})
    for each in tasks:
        twins.add(each)
    return list(twins.problems())


def repeats(*inputs):
    return near_repeats([Example(one, "answer") for one in inputs])


def texts(*seeds):
    return [text(seed) for seed in seeds]


def test_nothing_is_found_among_unlike_texts():
    assert found(read("train_a", texts(*range(40))), read("test_a", texts(*range(100, 140)))) == []


def test_an_exact_prompt_in_two_splits_is_named_with_both_places():
    (problem,) = found(read("train_a", texts(0, 1, 2)), read("test_b", texts(5, 1)))
    assert problem.level == "warning"
    assert problem.place == Place("test_b.jsonl", 2)
    assert problem.column == "input"
    assert str(problem).startswith(
        "test_b.jsonl, line 2: `input` the very prompt of train_a.jsonl, line 2, in 'train', stands here in 'test'"
    )


def test_twins_within_a_split_may_stand():
    assert found(read("train_a", texts(0, 1)), read("train_b", texts(1, 0))) == []


def test_many_twins_of_two_tasks_are_one_problem():
    (problem,) = found(read("train_a", texts(0, 1, 2)), read("test_b", texts(0, 1, 2)))
    assert "and so do 2 more of 'test_b' and 'train_a'" in str(problem)


def test_another_instruction_asks_something_else_but_the_input_is_nearly_the_same():
    (problem,) = found(read("train_a", texts(0, 1)), read("test_b", texts(0, 3), "Do something else."))
    assert problem.level == "note"
    assert "nearly the input of train_a.jsonl, line 1" in str(problem)


def test_a_twin_is_found_among_many_equal_ones_of_another_split():
    same = [read(f"train_{number}", texts(7)) for number in range(6)]
    (problem,) = found(*same, read("test_b", texts(7)))
    assert problem.place.file == "test_b.jsonl"


def test_a_near_copy_in_another_split_is_found():
    (problem,) = found(read("train_a", texts(0, 1)), read("test_b", [text(5), changed(text(1))]))
    assert problem.level == "note"
    assert problem.place == Place("test_b.jsonl", 2)
    assert "nearly the input of train_a.jsonl, line 2" in str(problem)


def test_a_near_copy_within_a_task_is_found_between_support_and_query_alone():
    copy = changed(text(1))
    (problem,) = found(read("train_a", [text(0), text(1), text(2), copy]))
    assert problem.level == "note"
    assert problem.place == Place("train_a.jsonl", 4)
    assert "1 of 2 query inputs of 'train_a' nearly repeat support inputs, as this one that of line 2" in str(problem)
    assert found(read("train_a", [text(1), copy, text(2), text(3)])) == []
    assert found(read("train_a", [text(2), text(3), text(1), copy])) == []


def test_half_of_the_words_is_not_near():
    one = text(1, 40)
    other = " ".join(one.split(" ")[:20] + text(2, 20).split(" "))
    assert found(read("train_a", [one]), read("test_b", [other])) == []


@pytest.mark.parametrize("pair", [("3 + 4", "4 + 4"), ("How many legs has a dog?", "How many legs has a duck?")])
def test_short_inputs_are_near_only_where_they_are_the_same(pair):
    assert found(read("train_a", [pair[0], pair[1]])) == []
    assert found(read("train_a", [pair[0]], "One."), read("test_b", [pair[0]], "Another.")) == []


def test_case_and_spacing_do_not_matter():
    one = text(1)
    assert repeats(one, one.upper().replace(" ", "\n  ")) == [(0, 1)]
    assert repeats("A dog", "a  DOG") == [(0, 1)]


def test_signs_matter():
    one = "( ( a + b ) * ( c - d ) ) / 2"
    assert repeats(one, one.replace("+", "-").replace("*", "/")) == []
    assert repeats("(a)", "[a]") == []


def test_history_is_part_of_what_is_asked():
    told, other = (("user", text(1)), ("assistant", "yes")), (("user", text(2)), ("assistant", "yes"))
    assert near_repeats([Example("And now?", "a", told), Example("And now?", "b", told)]) == [(0, 1)]
    assert near_repeats([Example("And now?", "a", told), Example("And now?", "b", other)]) == []


@pytest.mark.parametrize("inputs", [[""], ["", "?"], ["😀 😀"]])
def test_inputs_without_words_are_taken(inputs):
    assert found(read("train_a", inputs), read("test_b", [text(0)])) == []


def test_many_equal_ones_are_not_all_paired():
    """Of n equal ones n - 1 pairs are given and looked at, not n squared over two."""
    count = 3000
    hashes = np.tile(np.arange(PERMUTATIONS, dtype=np.uint32), (count, 1))
    pairs = list(near(hashes))
    assert len(pairs) == count - 1
    assert {index for pair in pairs for index in pair} == set(range(count))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**16))
def test_pairs_are_in_order_each_once_and_near(kinds, seed):
    """Rows of a few kinds, unlike each other: every kind with two rows or more gives a pair, no other does."""
    draw = np.random.default_rng(seed)
    hashes = draw.integers(0, 2**32, (4, PERMUTATIONS), dtype=np.uint32)[kinds]
    pairs = list(near(hashes))
    assert len(set(pairs)) == len(pairs)
    assert all(first < second and kinds[first] == kinds[second] for first, second in pairs)
    assert len(pairs) == len(kinds) - len(set(kinds))


def test_the_estimate_is_near_the_true_similarity():
    """The share of equal hashes is a mean of PERMUTATIONS draws.

    By Hoeffding's bound it is off by e or more with probability 2 exp(-2 PERMUTATIONS e^2): at e = 0.35, 3e-7.
    """
    errors = []
    for seed in range(200):
        draw = random.Random(seed)
        one = draw.sample(WORDS, 40)
        other = one[: draw.randrange(3, 40)] + draw.sample(WORDS, 20)
        first, second = (set(duplicates._runs(words)) for words in (one, other))
        hashes = duplicates._min_hashes([one, other])
        errors.append(float((hashes[0] == hashes[1]).mean()) - len(first & second) / len(first | second))
    assert max(map(abs, errors)) < 0.35
    # the mean of 200 such has a standard deviation of at most 0.5 / sqrt(200 PERMUTATIONS)
    assert abs(sum(errors) / len(errors)) < 5 * 0.5 / (200 * PERMUTATIONS) ** 0.5


def test_nearly_all_near_copies_are_found():
    """Of texts that share 27 of 29 runs, 58 of 64 hashes agree with probability 0.85: 15 of 100 are missed, give or take 3.6."""
    pairs = [(text(seed), changed(text(seed))) for seed in range(100)]
    missed = sum(not repeats(one, other) for one, other in pairs)
    assert missed < 35


def test_the_builtin_suite_keeps_its_splits_apart():
    suite = open_suite("builtin")
    twins = Twins({name: split for split, names in suite.splits.items() for name in names})
    for each in of_suite(suite).read(pytest.fail):
        twins.add(each)
    assert [str(problem) for problem in twins.problems()] == []


def test_short_inputs_without_an_instruction_are_asked_other_things_by_other_tasks():
    """As under house rules: `dog` may be to translate here, and to put in the plural there."""
    assert found(read("train_a", ["dog", text(1)], ""), read("test_b", ["dog", text(2)], "")) == []
    (problem,) = found(read("train_a", ["dog", text(1)], ""), read("test_b", ["cat", text(1)], ""))
    assert "the very prompt" in str(problem)
    (problem,) = found(read("train_a", ["dog", text(1)]), read("test_b", ["dog", text(2)]))
    assert "the very prompt" in str(problem)
