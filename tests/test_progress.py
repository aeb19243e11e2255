"""Progress as plain lines, or as a bar on a terminal."""

import io
import itertools

from rich.console import Console

from headstart import progress
from headstart.progress import clock, meter, say


def lines_of(shares, monkeypatch, seconds_a_step=20.0, done=0.0):
    ticks = itertools.count(step=seconds_a_step)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    out = io.StringIO()
    with meter("train", Console(file=out, width=100), 4, done=done) as bar:
        for share in shares:
            bar.advance(share, "loss 1.0")
    return out.getvalue().splitlines()


def test_plain_lines_tell_time_spent_and_left(monkeypatch):
    assert lines_of([0.25, 0.5, 1.0], monkeypatch) == [
        "train:  25%, 0:20 so far, 1:00 left; loss 1.0",
        "train:  50%, 0:40 so far, 0:40 left; loss 1.0",
        "train: 100%, took 1:00; loss 1.0",
    ]


def test_lines_come_now_and_then_but_always_at_the_end(monkeypatch):
    assert len(lines_of([0.1, 0.2, 0.3, 0.4, 1.0], monkeypatch, seconds_a_step=6.0)) == 2


def test_a_terminal_gets_a_bar():
    out = io.StringIO()
    with meter("train", Console(file=out, force_terminal=True, width=100), 4) as bar:
        bar.advance(0.5)
    assert "2/4" in out.getvalue()


def test_clock():
    assert [clock(seconds) for seconds in (5, 65, 3601)] == ["0:05", "1:05", "60:01"]


def test_time_left_does_not_count_what_was_done_before(monkeypatch):
    lines = lines_of([0.75], monkeypatch, done=0.5)
    assert lines == ["train:  75%, 0:20 so far, 0:20 left; loss 1.0"]


def test_what_is_said_is_said_as_it_is():
    console = Console(file=io.StringIO(), width=20)
    text = r"a :smile: in [bold] and a line longer than the terminal is wide"
    say(console, text)
    assert console.file.getvalue() == f"{text}\n"
