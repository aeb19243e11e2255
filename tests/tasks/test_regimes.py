"""Regimes: what house rules withhold and rename, and that they stay the same."""

from headstart.tasks.regimes import apply_regime, house_rules


def test_instructed_is_the_suite_itself(toy_suite):
    assert apply_regime(toy_suite, "instructed") is toy_suite


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


def test_mixed_holds_every_task_both_ways_in_one_split(toy_suite):
    mixed = apply_regime(toy_suite, "mixed")
    assert len(mixed.tasks) == 2 * len(toy_suite.tasks)
    assert mixed.splits["meta_test"] == ("twice", "twice@house_rules")
    assert mixed.tasks["twice@house_rules"].instruction == ""
    assert mixed.tasks["twice"] == toy_suite.tasks["twice"]
