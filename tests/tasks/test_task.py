"""Examples, tasks and suites refuse what could not be learned from."""

from dataclasses import FrozenInstanceError, replace

import pytest

from headstart.errors import HeadstartError
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite


def task(*pairs, name="t", **options):
    return Task(name, "Do.", tuple(Example(*pair) for pair in pairs), "kind", **options)


def suite(**splits):
    return TaskSuite("s", {name: task(("x", "y"), name=name) for name in ("a", "b", "c")}, splits)


def test_white_space_around_texts_is_dropped():
    assert Example(" in \n", "\tout ") == Example("in", "out")


@pytest.mark.parametrize("output", ["", " \n"])
def test_an_empty_output_is_refused(output):
    with pytest.raises(SuiteError, match="'question' has an empty output"):
        Example("question", output)


def test_nothing_can_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        task(("x", "y")).name = "other"


def test_a_task_without_examples_is_refused():
    with pytest.raises(SuiteError, match="'t' has no examples"):
        task()


def test_a_repeated_input_is_refused_after_white_space_is_dropped():
    with pytest.raises(SuiteError, match="the input 'x' more than once"):
        task(("x", "1"), ("y", "2"), ("x ", "3"))


def test_an_output_outside_the_labels_is_refused():
    with pytest.raises(SuiteError, match="the output 'maybe', which is not among its labels"):
        task(("x", "yes"), ("y", "maybe"), labels=("yes", "no"))


@pytest.mark.parametrize("paraphrases", [("Do.",), ("Act.", "Act."), ("Act.", "")])
def test_paraphrases_are_distinct_wordings(paraphrases):
    with pytest.raises(SuiteError, match=r"'t' has the instruction 'Do\.' and the paraphrases .*; give each wording once"):
        task(("x", "y"), paraphrases=paraphrases)
    assert task(("x", "y"), paraphrases=("Act.",)).paraphrases == ("Act.",)


def test_what_has_no_instruction_has_no_other_wording_of_it():
    with pytest.raises(SuiteError, match="the instruction '' and the paraphrases"):
        Task("t", "", (Example("x", "y"),), "c", paraphrases=("Act.",))


def test_a_task_is_its_own_dataset_unless_told_otherwise():
    assert task(("x", "y")).dataset == "t"
    assert task(("x", "y"), dataset="shared").dataset == "shared"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_pools_are_the_two_halves(count):
    made = task(*((str(number), "y") for number in range(count)))
    assert made.support_pool + made.query_pool == made.examples
    assert len(made.query_pool) - len(made.support_pool) in (0, 1)


def test_a_split_gives_its_tasks_in_order():
    assert [one.name for one in suite(meta_train=("b", "a")).split("meta_train")] == ["b", "a"]


def test_an_unknown_split_is_named_with_those_there_are():
    with pytest.raises(SuiteError, match="no split 'test'; it has meta_test, meta_train"):
        suite(meta_train=("a",), meta_test=("b",)).split("test")


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"meta_train": ("a", "z")}, "names the task 'z', which the suite does not have"),
        ({"meta_train": ("a", "b"), "meta_test": ("c", "b")}, "'b' is in split 'meta_train' and in 'meta_test'"),
        ({"meta_train": ("a", "a")}, "'a' is in split 'meta_train' and in 'meta_train'"),
    ],
)
def test_splits_hold_known_tasks_once(splits, words):
    with pytest.raises(SuiteError, match=words):
        suite(**splits)


def test_replaced_parts_are_checked_again():
    with pytest.raises(SuiteError, match="not among its labels"):
        replace(task(("x", "y")), labels=("z",))


def test_users_can_catch_all_errors_at_once():
    assert issubclass(SuiteError, HeadstartError)


@pytest.mark.parametrize("labels", [("a", "a", "b"), (" a", "b"), ("a", "")])
def test_labels_are_distinct_texts(labels):
    with pytest.raises(SuiteError, match="give each once, not empty, without white space around"):
        Task("t", "", (Example("x", "b"), Example("y", "a")), "kind", labels)
