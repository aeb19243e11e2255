"""Progress with time left: a bar on a terminal, plain lines otherwise."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, no colours, no emoji for their names, no breaks where the terminal is narrow."""
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def printable(text: str) -> str:
    """A text in one line, without what would move a terminal's cursor or change its colours."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def shortened(lines: Sequence[str], most: int = 8) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - most
    return [*lines[:most], f"... and {more} more such notes, which `headstart check` lists"] if more > 1 else list(lines)


class Meter(Protocol):
    """Something that counts work done."""

    def advance(self, share: float, note: str = "") -> None:
        """Say that `share` of the whole, from 0 to 1, is done so far."""
        ...


@contextmanager
def meter(label: str, console: Console, units: int, quiet: bool = False, done: float = 0.0) -> Iterator[Meter]:
    """Count work of `units` parts, a share of it `done` before; silent on ranks other than the first."""
    if quiet:
        yield _Silent()
    elif console.is_terminal:
        left, right = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        columns = (left, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), right)
        with Progress(*columns, console=console) as progress:
            yield _Bar(progress, label, units, done)
    else:
        yield _Lines(label, console, done)


class _Silent:
    def advance(self, share: float, note: str = "") -> None:
        """Say nothing."""


class _Bar:
    def __init__(self, progress: Progress, label: str, units: int, done: float) -> None:
        self.progress, self.units = progress, units
        self.task = progress.add_task(label, total=units, completed=round(done * units), note="")

    def advance(self, share: float, note: str = "") -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=round(share * self.units), note=note)


class _Lines:
    def __init__(self, label: str, console: Console, done: float) -> None:
        self.label, self.console, self.done = label, console, done
        self.start = self.last = time.monotonic()

    def advance(self, share: float, note: str = "") -> None:
        """Print a line now and then, and at the end."""
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES and share < 1:
            return
        self.last = now
        left = (now - self.start) * (1 - share) / max(share - self.done, 1e-9)
        when = f"{clock(now - self.start)} so far, {clock(left)} left" if share < 1 else f"took {clock(now - self.start)}"
        say(self.console, f"{self.label}: {share:4.0%}, {when}{f'; {note}' if note else ''}")


def clock(seconds: float) -> str:
    """Seconds as `m:ss`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
