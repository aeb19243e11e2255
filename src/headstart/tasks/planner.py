"""The planner: which examples of a task share a packed row.

A packed row repeats no prefix. Under a dense mask its tokens attend over its whole length, so that longer rows mean fewer tokens
and more pairs of tokens; attention over blocks computes the pairs that see each other alone. Rows of one batch are filled up to
the longest. Any plan gives the same losses and gradients; it decides the cost alone.
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
class RowCosts:
    """What rows cost, in any unit.

    Args:
        linear: a token.
        quadratic: a pair of query and key.
        blocks: whether attention computes only the pairs of a block, or all of a row's.
    """

    linear: float = 1.0
    quadratic: float = 0.0
    blocks: bool = False


@dataclass(frozen=True)
class Planner:
    """Chooses the plan of the lowest cost among those that keep the token limit.

    Args:
        max_row_tokens: no row is longer, unless a single example with its prefix is.
        costs: what its tokens and pairs of tokens cost.
    """

    max_row_tokens: int = MAX_ROW_TOKENS
    costs: RowCosts = RowCosts()

    def plan(self, tasks: Sequence[Sizes]) -> list[Plan]:
        """A plan for each task of a batch whose rows are computed together; a pure function of the sizes."""
        plans = ([fill(sizes, limit) for sizes in tasks] for limit in self._limits(tasks))
        return min(plans, key=lambda plan: self.cost(tasks, plan))

    def cost(self, tasks: Sequence[Sizes], plans: Sequence[Plan]) -> float:
        """What a batch costs under these plans, filling included."""
        rows = [(sizes.prefix, [sizes.examples[index] for index in row]) for sizes, plan in zip(tasks, plans, strict=True) for row in plan]
        longest = max(prefix + sum(examples) for prefix, examples in rows)
        tokens = len(rows) * longest
        pairs = sum(block_pairs(*row) for row in rows) if self.costs.blocks else tokens * longest
        return self.costs.linear * tokens + self.costs.quadratic * pairs

    def _limits(self, tasks: Sequence[Sizes]) -> Iterable[int]:
        """Row lengths worth trying: for each task and number of rows, the shortest into which that many rows hold the task."""
        limits = {
            min(self.max_row_tokens, balanced(sizes, rows)) for sizes in tasks for rows in range(1, min(len(sizes.examples), MOST_ROWS) + 1)
        }
        return sorted(limits, reverse=True)


def block_pairs(prefix: int, examples: Sequence[int]) -> int:
    """The pairs of a row that attention over blocks computes: the prefix with itself, and each example with the prefix and itself."""
    return prefix**2 + sum(size * (prefix + size) for size in examples)


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
