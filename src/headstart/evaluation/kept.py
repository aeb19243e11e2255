"""What an evaluation has measured so far, kept as it goes, so that a stopped one goes on and another arm costs that arm alone."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from headstart.evaluation.drift import TEXT
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.protocol import Gone
from headstart.evaluation.records import Record
from headstart.evaluation.tuning import Grid
from headstart.files import cache_folder, digest_of_files, writing

DAYS = 30
"""What was not gone on with for so long is removed when another evaluation begins."""

LOCK = ".lock"

Cell = tuple[str, str, int, int, str]
"""Setting, label, seed, draw, task. A label is an arm, with what its numbers depend on beside what all depend on."""


@dataclass
class Kept:
    """A file of JSON lines under a digest of all that decides its numbers, the arms apart.

    Args:
        path: the file.
        records: of each cell, at all its steps.
        grids: (setting, label) -> what tuning found.
        shown: (setting, task, draw) -> how many examples fitted into a prompt.
        spent: (setting, label) -> `flops`, `tokens` and `seconds` that it took.
    """

    path: Path
    records: dict[Cell, list[Record]] = field(default_factory=dict)
    grids: dict[tuple[str, str], Grid] = field(default_factory=dict)
    shown: dict[tuple[str, str, int], int] = field(default_factory=dict)
    spent: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(cls, identity: Mapping[str, Any]) -> Iterator["Kept"]:
        """What an evaluation of this identity has left, if it was begun before; until the end of the block no other process adds to it.

        Raises:
            EvaluationError: another process is at it.
            WriteError: the cache cannot be written.
        """
        digest = hashlib.sha256(json.dumps([identity, code_digest()], sort_keys=True).encode()).hexdigest()[:24]
        kept = cls(kept_folder() / f"{digest}.jsonl")
        with writing(kept.path):
            kept.path.parent.mkdir(parents=True, exist_ok=True)
            _forget_old(kept.path)
        with _alone(kept.path):
            with writing(kept.path):
                kept._read()
            yield kept

    def _read(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        # a line that was cut short when its process was killed
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self.path.write_bytes(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))

    def _take(self, line: Mapping[str, Any]) -> None:
        if "grid" in line:
            grid = {int(horizon): {float(rate): loss for rate, loss in found.items()} for horizon, found in line["grid"].items()}
            self.grids[line["setting"], line["label"]] = grid
        cells: dict[Cell, list[Record]] = {}
        for each in map(Record.from_json, line.get("records", ())):
            cells.setdefault((line["setting"], line["label"], each.seed, each.draw, each.task), []).append(each)
        # a cell that was measured again counts once
        self.records |= cells
        self.shown.update({(line["setting"], task, draw): count for task, draw, count in line.get("shown", ())})
        self.spent.setdefault((line["setting"], line["label"]), Counter()).update(line["spent"])

    def has(self, setting: str, label: str, seed: int, draw: int, tasks: Iterable[str]) -> bool:
        """Whether all of these tasks were measured."""
        return all((setting, label, seed, draw, task) in self.records for task in tasks)

    def of(self, setting: str, label: str) -> list[Record]:
        """All records of a label under a setting."""
        return [record for cell, found in self.records.items() if cell[:2] == (setting, label) for record in found]

    def add(self, setting: str, label: str, gone: Gone, spent: Mapping[str, float]) -> None:
        """Keep what came of a piece, whole, and what it took."""
        counts = [[task, gone.records[0].draw, count] for task, count in gone.shown.items()]
        records = [record.to_json() for record in gone.records]
        self._append({"setting": setting, "label": label, "records": records, "shown": counts, "spent": spent})

    def add_grid(self, setting: str, label: str, grid: Grid, spent: Mapping[str, float]) -> None:
        """Keep what tuning found, and what it took."""
        self._append({"setting": setting, "label": label, "grid": grid, "spent": spent})

    def _append(self, line: Mapping[str, Any]) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        self._take(line)


def kept_folder() -> Path:
    """Where evaluations are kept."""
    return cache_folder() / "evaluations"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from a file; raises `EvaluationError` if one has it."""
    lock = FileLock(path.with_suffix(LOCK))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise EvaluationError(
            f"{path}: another process is at the same evaluation; wait for it, or let it go on alone: what it measures is kept"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _forget_old(own: Path) -> None:
    for path in own.parent.glob("*.jsonl"):
        # another process may have removed it
        with suppress(OSError):
            if path != own and path.stat().st_mtime < time.time() - DAYS * 86400:
                path.unlink()
                path.with_suffix(LOCK).unlink()


@cache
def code_digest() -> str:
    """A digest of the package's code and of the text that drift is measured on: numbers of other code are not mixed with these."""
    return digest_of_files([*sorted(Path(__file__).parents[1].rglob("*.py")), TEXT])
