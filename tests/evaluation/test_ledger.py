"""Every look at a test split is written down before it is taken."""

import json

import pytest

from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.ledger import default_ledger, read_looks, record_look
from headstart.files import WriteError

LOOK = {"suite": "toy", "revision": "1", "split": "meta_test", "adapters": ["a"], "arms": ["meta"], "commit": "c"}


def test_looks_are_appended_and_counted_by_suite_revision_and_split(tmp_path):
    ledger = tmp_path / "deep" / "looks.jsonl"
    assert len(record_look(ledger, LOOK)) == 1
    assert len(record_look(ledger, {**LOOK, "revision": "2"})) == 1
    found = record_look(ledger, {**LOOK, "adapters": ["b"]})
    assert [each["adapters"] for each in found] == [["a"], ["b"]]
    assert len(read_looks(ledger)) == 3
    assert all(each["time"].endswith("+00:00") for each in found)


def test_nothing_in_the_ledger_is_ever_rewritten(tmp_path):
    ledger = tmp_path / "looks.jsonl"
    record_look(ledger, LOOK)
    before = ledger.read_bytes()
    record_look(ledger, LOOK)
    assert ledger.read_bytes().startswith(before)


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"suite": "toy"}'])
def test_a_broken_ledger_is_told_by_line_and_left_alone(tmp_path, line):
    ledger = tmp_path / "looks.jsonl"
    ledger.write_text(f"{json.dumps(LOOK)}\n{line}\n")
    with pytest.raises(EvaluationError, match=r"looks\.jsonl:2: not a look"):
        record_look(ledger, LOOK)
    assert ledger.read_text() == f"{json.dumps(LOOK)}\n{line}\n"


def test_a_ledger_that_cannot_be_written_stops_the_look(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((WriteError, EvaluationError)):
        record_look(tmp_path / "file" / "looks.jsonl", LOOK)


def test_the_default_ledger_is_one_for_a_user(tmp_path):
    assert default_ledger() == tmp_path / "state" / "headstart" / "looks.jsonl"


def test_the_default_ledger_without_a_state_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_ledger() == tmp_path / ".local" / "state" / "headstart" / "looks.jsonl"
