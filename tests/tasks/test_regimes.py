"""Regimes: what house rules withhold and rename, and that they stay the same."""

from dataclasses import replace

import pytest

from headstart.tasks.codes import MOST_OF_ONE_SYLLABLE
from headstart.tasks.regimes import house_rules, under_regime
from headstart.tasks.task import Example, Task


def test_instructed_is_the_task_itself(toy_suite):
    for task in toy_suite.tasks.values():
        (same,) = under_regime(task, "instructed")
        assert same is task


def test_house_rules_are_the_task_under_its_own_name(toy_suite):
    task = toy_suite.tasks["vowel"]
    assert under_regime(task, "house_rules", 3) == (house_rules(task, 3),)
    assert house_rules(task, 3).name == "vowel"


def test_house_rules_withhold_the_instruction_and_rename_the_labels(toy_suite):
    before, after = toy_suite.tasks["vowel"], house_rules(toy_suite.tasks["vowel"])
    assert after.instruction == ""
    assert len(set(after.labels)) == 2
    assert not set(after.labels) & set(before.labels)
    code = dict(zip(before.labels, after.labels, strict=True))
    assert [example.output for example in after.examples] == [code[example.output] for example in before.examples]
    assert [example.input for example in after.examples] == [example.input for example in before.examples]


def test_generation_keeps_its_answers(toy_suite):
    assert house_rules(toy_suite.tasks["upper"]).examples == toy_suite.tasks["upper"].examples


def test_codes_are_fixed_by_seed_and_task(toy_suite):
    task = toy_suite.tasks["vowel"]
    assert house_rules(task, 3) == house_rules(task, 3)
    assert len({house_rules(task, seed).labels for seed in range(5)}) > 1


def test_mixed_gives_every_task_both_ways(toy_suite):
    for task in toy_suite.tasks.values():
        plain, ruled = under_regime(task, "mixed", 3)
        assert plain is task
        assert ruled == replace(house_rules(task, 3), name=f"{task.name}@house_rules")
        assert (ruled.instruction, ruled.cluster, ruled.dataset) == ("", task.cluster, task.name)


def test_a_ruled_task_knows_what_its_labels_were_and_no_wording(toy_suite):
    task = replace(toy_suite.tasks["vowel"], paraphrases=("Is the first letter a vowel?",))
    ruled = house_rules(task)
    assert (ruled.original_labels, ruled.paraphrases) == (task.labels, ())
    assert task.original_labels == house_rules(toy_suite.tasks["upper"]).original_labels == ()


def labelled(*labels):
    return Task("t", "Do.", tuple(Example(str(number), label) for number, label in enumerate(labels)), "c", labels)


@pytest.mark.parametrize("count", [MOST_OF_ONE_SYLLABLE, MOST_OF_ONE_SYLLABLE + 1, 3000])
def test_codes_never_run_out(count):
    codes = house_rules(labelled(*map(str, range(count)))).labels
    assert len(set(codes)) == count
    assert {len(code) for code in codes} == {3 if count <= MOST_OF_ONE_SYLLABLE else 6}


def test_no_code_is_another_label_of_the_task():
    """Else a label would mean another of its kind."""
    every = house_rules(labelled("x", "y")).labels
    assert not set(house_rules(labelled(*every)).labels) & set(every)


def test_kept_tokens_go_with_the_answers_they_were_of(toy_suite):
    assert all(example.tokens is None for example in house_rules(toy_suite.tasks["vowel"]).examples)
