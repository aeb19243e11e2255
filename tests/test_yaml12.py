"""YAML 1.2's core schema, and what is refused."""

import math

import pytest

from headstart.yaml12 import read_yaml, show


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("3e-4", 3e-4),
        ("'3e-4'", "3e-4"),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalars(text, value):
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_anchors_and_merges_are_read_as_copies():
    read = read_yaml("a: &x {b: 1}\nc: {<<: *x, b: 2, d: 3}\ne: [*x, *x]")
    assert read == {"a": {"b": 1}, "c": {"b": 2, "d": 3}, "e": [{"b": 1}, {"b": 1}]}
    assert read["e"][0] is not read["e"][1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: the key 'c' stands twice, first in line 3"),
        ("a: [1,", "line 1: "),
        ("a: 1\n? [b]\n: 2", "line 2: a key must be a plain word"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: &a [*a]", "Circular"),
        ("a: !!binary aGk=", "bytes"),
        ("a: \0", "not allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        read_yaml(text)


@pytest.mark.parametrize("value", [True, None, 1, 0.5, math.inf, -math.inf, "text", [1, "a"]])
def test_shown_values_read_back(value):
    assert read_yaml(show(value)) == value
