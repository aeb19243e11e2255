"""Problems: what is wrong with data, and where; told one by one, or all in one pass."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from headstart.tasks.task import SuiteError

Level = Literal["error", "warning", "note"]


class Place(NamedTuple):
    """A row of a file: its line in a text file, its number in another."""

    file: str
    row: int | None = None
    unit: Literal["line", "row"] = "line"

    def __str__(self) -> str:
        row = f"{self.unit} {self.row}" if self.row is not None else ""
        return ", ".join(part for part in (self.file, row) if part)


NOWHERE = Place("")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        text: what it is, and how to mend it.
        place: where it is.
        column: in which column.
        level: an `error` keeps data from being used, a `warning` makes it worse than it looks, a `note` is good to know.
    """

    text: str
    place: Place = NOWHERE
    column: str | None = None
    level: Level = "error"

    def __str__(self) -> str:
        what = f"`{self.column}` {self.text}" if self.column else self.text
        return f"{where}: {what}" if (where := str(self.place)) else what

    def at(self, place: Place) -> "Problem":
        """The same with a place, where it has none."""
        return self if self.place.file else replace(self, place=place)

    def as_json(self) -> dict[str, str | int | None]:
        """The parts under their names."""
        file, row, unit = self.place
        return {"level": self.level, "file": file or None, "row": row, "unit": unit, "column": self.column, "text": self.text}


class DataError(SuiteError):
    """Data that cannot be used; knows its problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def problem_of(error: Exception) -> Problem:
    """The problem that an error tells of."""
    return error.problem if isinstance(error, DataError) else Problem(str(error))


Report = Callable[[Problem], None]
"""Takes a problem; what has it is left out if the report returns."""


def refuse(problem: Problem) -> None:
    """The report of those who want to use the data: raises `DataError` at the first error."""
    if problem.level == "error":
        raise DataError(problem)


@dataclass
class Counting:
    """A report that passes problems on, and knows how many of them were errors, and how many warnings."""

    report: Report
    errors: int = 0
    warnings: int = 0

    def __call__(self, problem: Problem) -> None:
        """Count it and pass it on."""
        self.errors += problem.level == "error"
        self.warnings += problem.level == "warning"
        self.report(problem)
