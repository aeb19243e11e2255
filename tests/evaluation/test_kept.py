"""What was measured is found again, and nothing else."""

import json
import os
import time

import pytest

from headstart.evaluation import kept as kept_module
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.kept import Kept
from headstart.evaluation.protocol import Gone
from headstart.evaluation.records import BINS, Record

SPENT = {"flops": 10, "tokens": 5, "seconds": 0.5}


def opened(identity):
    """What is kept, without keeping it from others."""
    with Kept.open(identity) as kept:
        return kept


def record(task, step=0, gaps=None, drift=None):
    return Record("meta", task, "c", "d", "instructed", 4, 1, 7, step, 1.25, 0.5, 0.0, 8, gaps, drift)


def test_what_was_added_is_there_when_opened_again():
    first = opened({"a": 1})
    gone = Gone([record("x", 0, (0.1,) * BINS), record("x", 1, drift=0.25), record("y")], {"x": 3})
    first.add("instructed/4", "meta", gone, SPENT)
    first.add_grid("instructed/4", "meta", {5: {1e-3: 2.0, 5e-4: 1.5}}, SPENT)
    again = opened({"a": 1})
    assert again.of("instructed/4", "meta") == gone.records == first.of("instructed/4", "meta")
    assert again.grids == first.grids == {("instructed/4", "meta"): {5: {1e-3: 2.0, 5e-4: 1.5}}}
    assert again.shown == {("instructed/4", "x", 1): 3}
    assert again.spent == {("instructed/4", "meta"): {"flops": 20, "tokens": 10, "seconds": 1.0}}
    assert again.has("instructed/4", "meta", 7, 1, ["x", "y"])


@pytest.mark.parametrize(
    "cell", [("instructed/4", "meta", 7, 1, ["z"]), ("instructed/4", "meta", 7, 0, ["x"]), ("house_rules/4", "meta", 7, 1, ["x"])]
)
def test_what_was_not_measured_is_not_there(cell):
    own = opened({"a": 1})
    own.add("instructed/4", "meta", Gone([record("x")], {}), SPENT)
    assert not own.has(*cell)


def test_another_identity_or_other_code_finds_nothing(monkeypatch):
    opened({"a": 1}).add("instructed/4", "meta", Gone([record("x")], {}), SPENT)
    assert not opened({"a": 2}).records
    monkeypatch.setattr(kept_module, "code_digest", lambda: "other")
    assert not opened({"a": 1}).records


def test_a_line_that_was_cut_short_is_dropped():
    own = opened({"a": 1})
    own.add("instructed/4", "meta", Gone([record("x")], {}), SPENT)
    whole = own.path.read_bytes()
    own.add("instructed/4", "meta", Gone([record("y")], {}), SPENT)
    own.path.write_bytes(own.path.read_bytes()[:-20])
    again = opened({"a": 1})
    assert again.path.read_bytes() == whole
    assert not again.has("instructed/4", "meta", 7, 1, ["y"])
    again.add("instructed/4", "meta", Gone([record("y")], {}), SPENT)
    assert all(json.loads(line) for line in again.path.read_text().splitlines())


def test_what_was_not_gone_on_with_for_a_month_is_removed(tmp_path):
    old, young = opened({"a": 1}), opened({"a": 2})
    for each in (old, young):
        each.add("instructed/4", "meta", Gone([record("x")], {}), SPENT)
    os.utime(old.path, (0, time.time() - 40 * 86400))
    opened({"a": 3})
    assert (old.path.exists(), young.path.exists()) == (False, True)


def test_the_code_digest_is_of_the_packages_files():
    assert len(kept_module.code_digest()) == 64


def test_a_cell_that_was_measured_again_counts_once():
    own = opened({"a": 1})
    for _ in range(2):
        own.add("instructed/4", "meta", Gone([record("x", 0), record("x", 1)], {}), SPENT)
    assert len(opened({"a": 1}).of("instructed/4", "meta")) == 2


def test_two_processes_do_not_keep_the_same_evaluation():
    with Kept.open({"a": 1}):
        with pytest.raises(EvaluationError, match="another process is at the same evaluation"), Kept.open({"a": 1}):
            pass
        with Kept.open({"a": 2}):
            pass
    with Kept.open({"a": 1}):
        pass
