"""Near relatives are found by each of the rules, and by nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.evaluation.relatives import near_relatives
from headstart.tasks.sources import open_suite
from headstart.tasks.task import Example, Task

POOL = Path(__file__).parents[3] / "shared" / "pool"
ANIMALS = ("fox", "cow", "owl", "elk", "gnu", "bee", "ant", "cat")
TOOLS = ("saw", "axe", "hoe", "awl", "jig", "pin", "rod", "vice")


def task(name, cluster, instruction="", inputs=ANIMALS, labels=(), dataset=""):
    outputs = labels or ("one", "two")
    return Task(
        name, instruction, tuple(Example(text, outputs[at % 2]) for at, text in enumerate(inputs)), cluster, labels, dataset=dataset
    )


OTHERS = [
    task("price", "money", "Tell the total price of the shopping.", ["3 apples at $2", "2 pears at $5"]),
    task("french", "translation", "Translate the sentence into French.", ["A dog barks.", "It rains."]),
    task("tides", "geography", "Does the sea rise or fall at that hour?", ["6 o'clock", "noon"]),
    task("legs", "biology", "Count the legs of the creatures.", ["2 frogs", "3 hens"]),
]
"""Training tasks that are nobody's relatives."""


def relatives(measured, *training):
    return near_relatives([measured], [*OTHERS, *training])[measured.name]


PAIRS = {
    "dataset": (task("a", "one", dataset="reviews"), task("b", "other", inputs=TOOLS, dataset="reviews")),
    "inputs": (task("a", "one"), task("b", "other", inputs=[*(name.upper() for name in ANIMALS[:4]), *TOOLS])),
    "labels": (task("a", "one", labels=("Spam", "ham")), task("b", "other", inputs=TOOLS, labels=("ham", "spam"))),
    "kind in name": (task("mnli", "nli"), task("web_ANLI_gpt", "paraphrase", inputs=TOOLS)),
    "frame": (
        task("a", "one", inputs=[f"sentence 1: {name} sentence 2: {name}s" for name in ANIMALS]),
        task("b", "other", inputs=[f"{name} {name}s (Sentence 1, Sentence 2)." for name in TOOLS]),
    ),
    "question": (
        task("a", "one", "Sort the list of words alphabetically."),
        task("b", "other", "Write the word of the list that is first in alphabetical order.", TOOLS),
    ),
}


@pytest.mark.parametrize("rule", PAIRS)
def test_each_rule_finds_its_relatives_either_way(rule):
    one, other = PAIRS[rule]
    assert relatives(one, other) == (other.name,)
    assert relatives(other, one) == (one.name,)


@pytest.mark.parametrize("rule", PAIRS)
def test_tasks_of_one_cluster_are_no_near_relatives(rule):
    """They are of one kind, which is another thing."""
    one, other = PAIRS[rule]
    assert relatives(replace(one, cluster="same"), replace(other, cluster="same")) == ()


STRANGERS = {
    "common labels": (task("a", "one", labels=("Yes", "no")), task("b", "other", inputs=TOOLS, labels=("yes", "no"))),
    "letters": (task("a", "one", labels=("(A)", "(B)")), task("b", "other", inputs=TOOLS, labels=("A", "B"))),
    "numbers": (task("a", "one", labels=("1", "25")), task("b", "other", inputs=TOOLS, labels=("1", "25"))),
    "some labels": (task("a", "one", labels=("spam", "ham")), task("b", "other", inputs=TOOLS, labels=("spam", "eggs"))),
    "fewer inputs than half": (task("a", "one"), task("b", "other", inputs=[*ANIMALS[:3], *TOOLS])),
    "a kind inside a word": (task("mnli", "nli"), task("online_shop", "shopping", inputs=TOOLS)),
    "a short frame": (
        task("a", "one", inputs=[f"text: {name}" for name in ANIMALS]),
        task("b", "other", inputs=[f"text: {name}" for name in TOOLS]),
    ),
    "one rare word": (task("a", "one", "Double it."), task("b", "other", "Is it a double?", TOOLS)),
    "what every instruction says": (
        task("a", "one", "Write the answer to the following text."),
        task("b", "other", "Write the answer to the following text.", TOOLS),
    ),
    "labels in the instruction": (
        task("a", "one", "Answer valid or invalid.", labels=("valid", "invalid")),
        task("b", "other", "Answer valid, invalid or unclear.", TOOLS, ("valid", "invalid", "unclear")),
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strangers_stay_strangers(case):
    one, other = STRANGERS[case]
    assert relatives(one, other) == ()
    assert relatives(other, one) == ()


def test_every_measured_task_is_told_of_and_relatives_come_in_the_order_of_training():
    one, other = PAIRS["question"]
    last = replace(other, name="c", examples=task("c", "x", inputs=[f"{name}s" for name in TOOLS]).examples)
    lonely = task("lonely", "alone", "Whistle.", ["la", "lu"])
    assert near_relatives([lonely, one], [last, *OTHERS, other]) == {"lonely": (), "a": ("c", "b")}


def test_without_training_tasks_there_are_no_relatives():
    assert near_relatives([task("a", "one")], []) == {"a": ()}


EVERY = [each for pair in [*PAIRS.values(), *STRANGERS.values()] for each in pair]
DISTINCT = [replace(each, name=f"{each.name}_{at}") for at, each in enumerate(EVERY)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(DISTINCT), unique_by=lambda each: each.name, max_size=8), st.permutations(DISTINCT))
def test_what_is_found_depends_neither_on_the_other_measured_tasks_nor_on_the_order(measured, training):
    together = near_relatives(measured, training)
    for each in measured:
        assert set(near_relatives([each], DISTINCT)[each.name]) == set(together[each.name])


@pytest.fixture(scope="module")
def pool():
    """The pool of real tasks."""
    if not (POOL / "splits.json").is_file():
        pytest.skip("there is no pool of real tasks beside the repository")
    return open_suite(str(POOL))


def flagged(suite, split):
    return {name: found for name, found in near_relatives(suite.split(split), suite.split("meta_train")).items() if found}


def test_the_known_relatives_among_real_tasks_are_found_and_few_others(pool):
    found = flagged(pool, "meta_test")
    lists = {f"fv__alphabetically_{end}_{length}" for end in ("first", "last") for length in (3, 5)}
    assert set(found["bbh__word_sorting"]) == lists
    inference = {task.name for task in pool.split("meta_test") if task.cluster == "nli"}
    assert all("t0__paws_labeled_final_PAWS_ANLI_GPT3" in found[name] for name in inference)
    assert len(found) <= len(pool.splits["meta_test"]) / 5
    assert len(flagged(pool, "meta_validation")) <= len(pool.splits["meta_validation"]) / 5


def test_few_tasks_of_the_builtin_suite_have_relatives():
    suite = open_suite("builtin")
    found = flagged(suite, "meta_test")
    assert found["young_analogy"] == ("opposite_analogy",)
    assert len(found) <= len(suite.splits["meta_test"]) / 5
