"""The spool: rows parted by task in any order, and a uniform sample of large ones."""

from collections import Counter

import pytest

from headstart.tasks.reading import spool as module
from headstart.tasks.reading.spool import Spool


def spooled(folder, rows, most=None):
    folder.mkdir()
    spool = Spool(folder, most)
    for task, row in rows:
        spool.add(task, row)
    return spool


ROWS = [(task, {"number": number}) for number in range(100) for task in ("a", "b/..", "ü")]


@pytest.mark.parametrize("buffered", [1, 7, 20_000])
def test_rows_are_parted_whatever_is_held(tmp_path, monkeypatch, buffered):
    monkeypatch.setattr(module, "BUFFERED", buffered)
    spool = spooled(tmp_path / "spool", ROWS)
    assert spool.tasks() == ["a", "b/..", "ü"]
    for task in spool.tasks():
        numbers = [row["number"] for row in spool.rows(task)]
        assert sorted(numbers) == list(range(100))
        assert numbers != sorted(numbers)
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_no_more_than_the_buffer_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUFFERED", 10)
    (tmp_path / "spool").mkdir()
    spool = Spool(tmp_path / "spool")
    for task, row in ROWS:
        spool.add(task, row)
        assert sum(map(len, spool._waiting.values())) < 10


def test_the_same_rows_are_drawn_every_time_and_none_twice(tmp_path):
    first, second = (spooled(tmp_path / name, ROWS, most=12) for name in "xy")
    for task in first.tasks():
        kept = [row["number"] for row in first.rows(task)]
        assert kept == [row["number"] for row in second.rows(task)]
        assert len(set(kept)) == 12
    whole = spooled(tmp_path / "z", ROWS)
    assert [row["number"] for row in first.rows("a")] == [row["number"] for row in whole.rows("a")][:12]


def test_small_tasks_are_kept_whole(tmp_path):
    assert len(list(spooled(tmp_path / "x", ROWS[:9], most=12).rows("a"))) == 3


def test_every_row_is_as_likely_to_be_kept(tmp_path):
    """4 of 20 in 2,000 tasks: each position is kept 400 times, give or take 4 standard deviations."""
    rows = [(str(task), {"number": number}) for number in range(20) for task in range(2000)]
    spool = spooled(tmp_path / "x", rows, most=4)
    kept = Counter(row["number"] for task in spool.tasks() for row in spool.rows(task))
    assert all(abs(kept[number] - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5 for number in range(20))
