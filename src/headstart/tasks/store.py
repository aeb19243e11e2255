"""Prepared suites on disk: every example rendered once, kept under a digest of all that decides it, and mapped into memory as it is used.

A store is a folder with `index.json`, what is known of each task, and `examples.arrow`, a record batch a task.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headstart.files import cache_folder
from headstart.tasks.rows import Rendered
from headstart.tasks.task import Example, Task, TaskSuite, Tokens

INDEX, EXAMPLES = "index.json", "examples.arrow"
SCHEMA = pa.schema(
    {
        "input": pa.string(),
        "output": pa.string(),
        # the turns before, as JSON; empty where there are none
        "history": pa.string(),
        "ids": pa.list_(pa.int32()),
        "answer": pa.int32(),
        # of the longest conversation that may be made of it: with any of the task's labels, and what training may draw
        "length": pa.int32(),
    }
)
TEXTS = ("name", "instruction", "cluster", "dataset", "language", "licence", "data_terms")
LISTS = ("labels", "paraphrases", "original_labels")
"""What is known of a task beside its examples."""
KEPT_DAYS = 30


def stores_folder() -> Path:
    """Where prepared suites are kept."""
    return cache_folder() / "suites"


class StoredExamples(Sequence[Example]):
    """A task's examples in a store, or some of them; each is made when it is asked for."""

    def __init__(self, batches: Any, batch: int, by: str, chosen: NDArray[np.int64]) -> None:
        self._batches, self._batch, self._by, self._chosen = batches, batch, by, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredExamples": ...
    def __getitem__(self, index: int | slice) -> "Example | StoredExamples":
        if isinstance(index, slice):
            return self._of(self._chosen[index])
        return self._made(self._rows(), int(self._chosen[index]))

    def __iter__(self) -> Iterator[Example]:
        rows = self._rows()
        return (self._made(rows, int(row)) for row in self._chosen)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The most tokens of each, whichever of the task's labels answers it and whatever training may draw, `(examples,)`."""
        lengths: NDArray[np.int64] = self._rows().column("length").to_numpy()[self._chosen].astype(np.int64)
        return lengths

    def within(self, max_length: int) -> "StoredExamples":
        """Those of at most so many tokens."""
        return self._of(self._chosen[self.lengths <= max_length])

    def _of(self, chosen: NDArray[np.int64]) -> "StoredExamples":
        return StoredExamples(self._batches, self._batch, self._by, chosen)

    def _rows(self) -> pa.RecordBatch:
        """The task's record batch; mapped, not read."""
        return self._batches.get_batch(self._batch)

    def _made(self, rows: pa.RecordBatch, row: int) -> Example:
        text, output, history, ids, answer = (rows.column(name)[row].as_py() for name in ("input", "output", "history", "ids", "answer"))
        turns = tuple((role, said) for role, said in json.loads(history)) if history else ()
        return Example(text, output, turns, Tokens(self._by, tuple(ids), answer))


@dataclass(frozen=True)
class Writer:
    """Writes a store, one task after another."""

    folder: Path
    sink: Any
    entries: list[dict[str, Any]]

    @classmethod
    @contextmanager
    def into(cls, folder: Path) -> "Iterator[Writer]":
        """A writer into an empty folder."""
        with pa.OSFile(str(folder / EXAMPLES), "wb") as file, pa.ipc.new_file(file, SCHEMA) as sink:
            yield cls(folder, sink, [])

    def add(self, task: Task, rendered: Sequence[Rendered], lengths: Sequence[int], by: str, origin: str) -> None:
        """Add a task, rendered.

        Args:
            task: whose examples are written.
            rendered: of each example.
            lengths: the most tokens of each.
            by: identifies what rendered them.
            origin: the source that it came from.
        """
        histories = [json.dumps(example.history) if example.history else "" for example in task.examples]
        columns = {
            "input": [example.input for example in task.examples],
            "output": [example.output for example in task.examples],
            "history": histories,
            "ids": [one.ids for one in rendered],
            "answer": [one.answer for one in rendered],
            "length": lengths,
        }
        self.sink.write_batch(pa.RecordBatch.from_pydict(columns, SCHEMA))
        about = {key: getattr(task, key) for key in (*TEXTS, *LISTS)}
        self.entries.append({**about, "examples": len(rendered), "by": by, "origin": origin})

    def finish(self, **about: Any) -> None:
        """Write the index, behind all examples; `about` is the suite's own."""
        index = {**about, "bytes": (self.folder / EXAMPLES).stat().st_size, "tasks": self.entries}
        (self.folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def is_stored(folder: Path) -> bool:
    """Whether a whole store lies there; one may be in part, where a machine went down before its disk had all."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return bool(index["bytes"] == (folder / EXAMPLES).stat().st_size)
    except (OSError, ValueError, KeyError):
        return False


def read_store(folder: Path) -> tuple[TaskSuite, list[str]]:
    """The suite in a store, and what was noted when it was prepared; its examples stay on disk until they are used."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    # a store of somebody else's is used as well
    with suppress(OSError):
        os.utime(folder)
    # open from here on, so that a store which someone removes meanwhile stays until the suite is gone
    batches = pa.ipc.open_file(pa.memory_map(str(folder / EXAMPLES)))
    tasks = {entry["name"]: _task(batches, number, entry) for number, entry in enumerate(index["tasks"])}
    splits = {split: tuple(names) for split, names in index["splits"].items()}
    origins = {entry["name"]: entry["origin"] for entry in index["tasks"]}
    return TaskSuite(index["name"], tasks, splits, index["revision"], origins, index["shares"]), index["notes"]


def _task(batches: Any, number: int, entry: Mapping[str, Any]) -> Task:
    examples = StoredExamples(batches, number, entry["by"], np.arange(entry["examples"]))
    about: dict[str, Any] = {key: entry[key] for key in TEXTS} | {key: tuple(entry[key]) for key in LISTS}
    return Task(**about, examples=examples)


def forget_old_stores() -> None:
    """Remove stores that nobody has used for a month, and those that are not whole; what is being written has a hidden name."""
    for folder in stores_folder().glob("*"):
        # another process may forget them at the same time
        with suppress(OSError):
            old = time.time() - folder.stat().st_mtime > KEPT_DAYS * 86400
            if old or not (folder.name.startswith(".") or is_stored(folder)):
                rmtree(folder, ignore_errors=True)
