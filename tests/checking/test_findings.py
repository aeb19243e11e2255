"""What a check finds, as a verdict, as problems, and as JSON."""

import json

import pytest

from headstart.checking.findings import Findings
from headstart.errors import HeadstartError
from headstart.tasks.problems import DataError, Place, Problem


@pytest.fixture
def findings():
    return Findings("x", "suite")


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ([], "nothing wrong"),
        (["note"], "nothing wrong (1 note)"),
        (["warning"], "1 warning"),
        (["error", "note", "error"], "2 errors, 1 note"),
        (["note", "warning", "error", "warning"], "1 error, 2 warnings, 1 note"),
    ],
)
def test_a_verdict_counts_by_weight(findings, levels, verdict):
    for number, level in enumerate(levels):
        findings.add(Problem(f"problem {number}", level=level))
    assert findings.verdict == verdict
    assert findings.errors == levels.count("error")


def test_a_problem_is_taken_once(findings):
    for place in (Place("a", 1), Place("a", 2), Place("a", 1)):
        findings.add(Problem("bad", place))
    assert [problem.place.row for problem in findings.problems] == [1, 2]


def test_what_a_user_can_mend_is_noted_and_the_rest_goes_on(findings):
    with findings.noting():
        raise DataError(Problem("bad", Place("a", 3), "input"))
    with findings.noting():
        raise HeadstartError("worse")
    assert findings.problems == [Problem("bad", Place("a", 3), "input"), Problem("worse")]
    with pytest.raises(ZeroDivisionError), findings.noting():
        raise ZeroDivisionError


def test_every_problem_is_in_the_json(findings):
    findings.facts["lengths"] = {"median": 3}
    findings.add(Problem("bad [b]é", Place("a", 3, "row"), "input", "warning"))
    findings.add(Problem("worse"))
    content = json.loads(json.dumps(findings.as_json()))
    assert content == {
        "schema_version": 1,
        "target": "x",
        "kind": "suite",
        "errors": 1,
        "problems": [
            {"level": "warning", "file": "a", "row": 3, "unit": "row", "column": "input", "text": "bad [b]é"},
            {"level": "error", "file": None, "row": None, "unit": "line", "column": None, "text": "worse"},
        ],
        "facts": {"lengths": {"median": 3}},
    }
