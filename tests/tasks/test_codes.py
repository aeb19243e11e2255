"""Codes: what is drawn for labels, and drawn anew."""

import numpy as np
import pytest

from headstart.tasks.codes import MOST_OF_ONE_SYLLABLE, SYLLABLES, draw_codes, recoded
from headstart.tasks.regimes import house_rules
from headstart.tasks.task import Example, Task, Tokens


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def ruled(toy_suite):
    return house_rules(toy_suite.tasks["vowel"])


def labelled(*labels):
    return Task("t", "Do.", tuple(Example(str(number), label) for number, label in enumerate(labels)), "c", labels)


def test_all_syllables_are_those_that_codes_are_of(rng):
    assert len(set(SYLLABLES)) == 14 * 5 * 14
    drawn = {code for _ in range(200) for code in draw_codes("ab", rng)}
    assert len(drawn) > 200
    assert drawn <= set(SYLLABLES)


def test_other_codes_stand_for_the_same_labels(ruled, toy_suite, rng):
    other, before = recoded(ruled, rng), toy_suite.tasks["vowel"]
    assert (other.original_labels, other.name, other.cluster) == (before.labels, "vowel", "kind")
    assert len(set(other.labels)) == 2
    assert not set(other.labels) & {*ruled.labels, *before.labels}
    code = dict(zip(before.labels, other.labels, strict=True))
    assert [example.output for example in other.examples] == [code[example.output] for example in before.examples]
    assert [example.input for example in other.examples] == [example.input for example in before.examples]


def test_recoded_examples_are_a_sequence_of_examples_like_any(ruled, rng):
    examples = recoded(ruled, rng).examples
    every = list(examples)
    assert len(examples) == len(every) == 24
    assert [*examples[:5], *examples[5:]] == every
    assert examples[-1] == every[-1]
    with pytest.raises(IndexError):
        examples[24]
    assert [*recoded(ruled, rng).support_pool, *recoded(ruled, rng).query_pool] != every


def test_tokens_of_the_old_answers_are_gone(rng):
    kept = Example("a", "bab", tokens=Tokens("by", (1, 2), 1))
    task = Task("t", "", (kept,), "c", ("bab", "dad"), original_labels=("yes", "no"))
    assert recoded(task, rng).examples[0].tokens is None


def test_what_has_no_codes_stays_as_it_is(toy_suite, rng):
    for task in (toy_suite.tasks["vowel"], house_rules(toy_suite.tasks["upper"])):
        assert recoded(task, rng) is task


def test_no_code_is_a_label_of_before(rng):
    """Else it would say what it stands for, or another."""
    task = house_rules(labelled(*SYLLABLES[:MOST_OF_ONE_SYLLABLE]))
    for _ in range(5):
        assert not set(recoded(task, rng).labels) & set(task.original_labels)


def test_where_there_are_too_many_labels_their_codes_are_dealt_out_anew(rng):
    """Of codes of two syllables the longest cannot be found by looking at all."""
    task = house_rules(labelled(*map(str, range(MOST_OF_ONE_SYLLABLE + 1))))
    other = recoded(task, rng)
    assert other.labels != task.labels
    assert sorted(other.labels) == sorted(task.labels)
    code = dict(zip(task.labels, other.labels, strict=True))
    assert [example.output for example in other.examples] == [code[example.output] for example in task.examples]
