"""The planner: which examples of a task share a packed row.

A packed row repeats nothing but its tokens attend over its whole length, so longer rows mean fewer tokens and more pairs of
tokens. Rows of one batch are filled up to the longest. Any plan gives the same losses and gradients; it decides the cost alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Plan = tuple[tuple[int, ...], ...]
"""The rows of one task: for each the numbers of its examples, in order; every example is in exactly one row."""

MAX_ROW_TOKENS = 1024
MOST_ROWS = 32
"""Plans with more rows a task than this are not looked for, unless the token limit asks for them."""


@dataclass(frozen=True)
class Sizes:
    """The tokens of one task: of the prefix that every row repeats, and of each example after it."""

    prefix: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Planner:
    """Chooses the plan of the lowest cost among those that keep the token limit.

    Args:
        max_row_tokens: no row is longer, unless a single example with its prefix is.
        linear: the cost of a token.
        quadratic: the cost of a pair of tokens of one row.
    """

    max_row_tokens: int = MAX_ROW_TOKENS
    linear: float = 1.0
    quadratic: float = 0.0

    def plan(self, tasks: Sequence[Sizes]) -> list[Plan]:
        """A plan for each task of a batch whose rows are computed together; a pure function of the sizes."""
        plans = ([fill(sizes, limit) for sizes in tasks] for limit in self._limits(tasks))
        return min(plans, key=lambda plan: self.cost(tasks, plan))

    def cost(self, tasks: Sequence[Sizes], plans: Sequence[Plan]) -> float:
        """What a batch costs under these plans, filling included."""
        lengths = [
            sizes.prefix + sum(sizes.examples[index] for index in row) for sizes, plan in zip(tasks, plans, strict=True) for row in plan
        ]
        longest = max(lengths)
        return len(lengths) * longest * (self.linear + self.quadratic * longest)

    def _limits(self, tasks: Sequence[Sizes]) -> Iterable[int]:
        """Row lengths worth trying: for each task and number of rows, the shortest into which that many rows hold the task."""
        limits = {
            min(self.max_row_tokens, balanced(sizes, rows)) for sizes in tasks for rows in range(1, min(len(sizes.examples), MOST_ROWS) + 1)
        }
        return sorted(limits, reverse=True)


def fill(sizes: Sizes, limit: int) -> Plan:
    """Put examples into rows in their order, beginning a new row where one would grow over `limit`."""
    rows: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes.examples):
        if not rows or size > room:
            rows.append([])
            room = limit - sizes.prefix
        rows[-1].append(index)
        room -= size
    return tuple(map(tuple, rows))


def balanced(sizes: Sizes, rows: int) -> int:
    """The shortest limit under which at most `rows` rows hold the task, by bisection."""
    low, high = sizes.prefix + max(sizes.examples), sizes.prefix + sum(sizes.examples)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(fill(sizes, middle)) <= rows else (middle + 1, high)
    return low
