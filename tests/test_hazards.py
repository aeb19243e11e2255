"""Every hazard in docs/hazards.md has the test that it names."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", (TESTS.parent / "docs" / "hazards.md").read_text(encoding="utf-8"))


def test_there_are_hazards():
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_named_is_there(file, name):
    assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8")
