"""What the builtin suite promises: many kinds of tasks, no two alike, splits by whole kinds."""

import datetime
import itertools
import os
import subprocess
import sys
from collections import Counter

import pytest

from headstart.tasks.builtin import builtin_suite
from headstart.tasks.builtin.facts.nouns import NOUNS, OTHERS

SUITE = builtin_suite()
TASKS = list(SUITE.tasks.values())
# Drawn once by seed; a change here would move kinds of tasks between training and test.
TEST_CLUSTERS = {"animals", "ciphers", "comparison", "derivation", "letter_rules", "lists", "science"}
VALIDATION_CLUSTERS = {"arbitrary_labels", "geography", "identifiers", "text_formatting"}


def clusters(split):
    return {task.cluster for task in SUITE.split(split)}


def test_it_is_large_enough():
    assert len(TASKS) >= 60
    assert len({task.cluster for task in TASKS}) >= 12


def test_splits_hold_out_whole_clusters_and_stay_as_drawn():
    assert clusters("meta_test") == TEST_CLUSTERS
    assert clusters("meta_validation") == VALIDATION_CLUSTERS
    assert not clusters("meta_train") & (TEST_CLUSTERS | VALIDATION_CLUSTERS)
    assert sorted(name for names in SUITE.splits.values() for name in names) == sorted(SUITE.tasks)


def test_no_two_tasks_share_a_fifth_of_their_inputs():
    inputs = {task.name: {example.input for example in task.examples} for task in TASKS}
    for first, second in itertools.combinations(inputs, 2):
        shared = len(inputs[first] & inputs[second]) / min(len(inputs[first]), len(inputs[second]))
        assert shared <= 0.2, (first, second, shared)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_task_is_well_formed(task):
    outputs = Counter(example.output for example in task.examples)
    most_common = outputs.most_common(1)[0][1] / len(task.examples)
    assert task.instruction
    assert len(task.examples) >= 64
    assert len({example.input for example in task.examples}) == len(task.examples)
    assert all(1 <= len(example.input.split()) <= 30 and 1 <= len(example.output.split()) <= 12 for example in task.examples)
    assert set(outputs) == set(task.labels) or not task.labels
    assert most_common <= (0.6 if task.labels else 0.4)


def test_seed_changes_the_examples_alone():
    again, other = builtin_suite(0), builtin_suite(1)
    assert again.tasks == SUITE.tasks
    assert again.revision == SUITE.revision != other.revision
    assert other.splits == SUITE.splits
    changed = [name for name, task in other.tasks.items() if set(task.examples) != set(SUITE.tasks[name].examples)]
    assert len(changed) > len(TASKS) / 2


def answers(name):
    return [(example.input, example.output) for example in SUITE.tasks[name].examples]


def test_sums_add_up():
    for question, answer in answers("sum_of_two"):
        first, second = question.split(" + ")
        assert int(first) + int(second) == int(answer)


def test_roman_numerals_are_read_back():
    value = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for number, roman in answers("to_roman"):
        digits = [value[letter] for letter in roman]
        signed = [-a if a < b else a for a, b in itertools.pairwise([*digits, 0])]
        assert sum(signed) == int(number)


def test_sorted_words_and_numbers_are_sorted():
    for question, answer in answers("sort_words"):
        assert answer.split() == sorted(question.split())
    for question, answer in answers("sort_numbers"):
        assert [int(n) for n in answer.split()] == sorted(int(n) for n in question.split())


def test_shifted_letters_shift_back():
    for question, answer in answers("shift_back"):
        assert "".join(chr(ord(letter) - 1) if letter != "a" else "z" for letter in question) == answer


def test_known_facts_stand():
    known = {
        "capital_of_country": {"France": "Paris", "Japan": "Tokyo", "Australia": "Canberra"},
        "element_symbol": {"gold": "Au", "iron": "Fe", "sodium": "Na"},
        "country_of_city": {"Milan": "Italy", "Lyon": "France", "Sydney": "Australia", "Osaka": "Japan"},
        "plural_nouns": {"child": "children", "wolf": "wolves", "box": "boxes", "city": "cities"},
        "past_tense": {"go": "went", "write": "wrote", "buy": "bought"},
        "animal_class": {"Whale": "mammal", "Penguin": "bird", "Shark": "fish", "Ant": "insect", "Snake": "reptile"},
    }
    for name, facts in known.items():
        found = dict(answers(name))
        asked = facts.keys() & found.keys()
        assert asked, f"{name} asks for none of the facts this test knows"
        assert {question: found[question] for question in asked} == {question: facts[question] for question in asked}


def test_examples_do_not_depend_on_the_process():
    code = "from headstart.tasks.builtin import builtin_suite; print(builtin_suite().revision)"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SUITE.revision


def test_binary_numbers_are_read_back():
    for question, answer in answers("to_binary"):
        assert int(answer, 2) == int(question.split()[0])


def test_weekdays_follow_the_calendar():
    names = [datetime.date(2024, 1, day).strftime("%A") for day in range(1, 8)]
    for question, answer in answers("weekday_offset"):
        count, _, direction, start = question.split()
        there = names.index(start) + int(count) * (1 if direction == "after" else -1)
        assert names[there % 7] == answer


def test_the_way_back_leads_home():
    step = {"north": 1j, "south": -1j, "east": 1, "west": -1}
    for there, back in answers("way_back"):
        legs = [leg.split() for leg in f"{there}, {back}".split(", ")]
        assert sum(int(count) * step[way] for count, way in legs) == 0


SYMBOLS = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd
    Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac
    Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""


def test_elements_have_their_symbols():
    symbols = SYMBOLS.split()
    symbol_of = dict(answers("element_symbol"))
    for number, name in answers("element_by_number"):
        assert symbol_of[name] == symbols[int(number.split()[1]) - 1]


def test_every_noun_stands_in_one_category():
    nouns = Counter(NOUNS + OTHERS)
    assert max(nouns.values()) == 1
