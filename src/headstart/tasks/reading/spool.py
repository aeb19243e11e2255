"""Rows that come in any order, parted into tasks on disk, so that memory holds none of them.

Of large tasks a uniform sample is kept: every row draws a priority, and the rows of the lowest stay (bottom-k sampling). They end up
in the order of their priorities, which is a shuffle.
"""

import heapq
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUFFERED = 20_000
"""So many rows are held before they are written."""
SEED = 0


@dataclass
class Spool:
    """Rows of many tasks in a folder.

    Args:
        folder: an empty one.
        most: rows that are kept of a task; all where None.
    """

    folder: Path
    most: int | None = None
    _chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    _numbers: dict[str, int] = field(default_factory=dict)
    _kept: dict[str, list[float]] = field(default_factory=dict)
    _waiting: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _held: int = 0

    def add(self, task: str, row: Mapping[str, Any]) -> None:
        """Take a row, if its priority is not too high already."""
        priority = self._chance.random()
        if not self._enters(task, priority):
            return
        self._waiting[task].append(json.dumps([priority, row]))
        self._held += 1
        if self._held >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        for task, lines in self._waiting.items():
            with self._file(task).open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        self._waiting.clear()
        self._held = 0

    def tasks(self) -> list[str]:
        """The tasks that rows came of, in the order of their first rows."""
        return list(self._kept)

    def rows(self, task: str) -> Iterator[Mapping[str, Any]]:
        """A task's rows that stay, in the order of their priorities; the spool is flushed first."""
        self.flush()
        with self._file(task).open(encoding="utf-8") as file:
            drawn = sorted((json.loads(line) for line in file), key=lambda pair: pair[0])
        return (row for _, row in drawn[: self.most])

    def remove(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder)

    def _enters(self, task: str, priority: float) -> bool:
        """Whether the row is among the kept so far; the highest priority kept leaves for it."""
        # negative, since heapq keeps the smallest in front
        kept = self._kept.setdefault(task, [])
        if self.most is None:
            return True
        if len(kept) < self.most:
            heapq.heappush(kept, -priority)
            return True
        return heapq.heappushpop(kept, -priority) != -priority

    def _file(self, task: str) -> Path:
        return self.folder / f"{self._numbers.setdefault(task, len(self._numbers))}.jsonl"
