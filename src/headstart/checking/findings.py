"""What a check finds: problems, and facts about what was looked at."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from headstart.errors import HeadstartError
from headstart.tasks.problems import Problem, problem_of

Kind = Literal["recipe", "suite", "file", "adapter"]
SCHEMA_VERSION = 1


@dataclass
class Findings:
    """What was found, and where it was looked for.

    Args:
        target: what was looked at, as the user names it.
        kind: what that is.
        problems: in the order in which they were found.
        facts: sizes, counts and estimates, by subject; JSON's types alone.
    """

    target: str
    kind: Kind
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    _known: set[Problem] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self._known.update(self.problems)

    @property
    def errors(self) -> int:
        """How many problems keep this from being used."""
        return sum(problem.level == "error" for problem in self.problems)

    @property
    def verdict(self) -> str:
        """How many problems there are, by their weight."""
        counts = Counter(problem.level for problem in self.problems)
        told = [f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in ("error", "warning", "note") if counts[level]]
        return ", ".join(told) if counts["error"] or counts["warning"] else f"nothing wrong{f' ({told[0]})' if told else ''}"

    def add(self, problem: Problem) -> None:
        """Take a problem, unless it is known."""
        if problem not in self._known:
            self._known.add(problem)
            self.problems.append(problem)

    @contextmanager
    def noting(self, kind: type[HeadstartError] = HeadstartError) -> Iterator[None]:
        """Take an error of a kind, by default any that a user can mend, as a problem, and go on behind the block."""
        try:
            yield
        except kind as error:
            self.add(problem_of(error))

    def as_json(self) -> dict[str, Any]:
        """All of it under names; text that is no Unicode, as a broken file or its name may have, is escaped."""
        content: dict[str, Any] = _encodable(
            {
                "schema_version": SCHEMA_VERSION,
                "target": self.target,
                "kind": self.kind,
                "errors": self.errors,
                "problems": [problem.as_json() for problem in self.problems],
                "facts": self.facts,
            }
        )
        return content


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    return {_encodable(name): _encodable(each) for name, each in value.items()} if isinstance(value, dict) else value
