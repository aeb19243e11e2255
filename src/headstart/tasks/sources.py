"""Suites and rows in memory, for those who want them whole: builtin or from a folder, single files for adapting, rows from Python."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headstart.tasks.part import Part
from headstart.tasks.prepare import revision_of
from headstart.tasks.problems import Place, refuse
from headstart.tasks.reading.opening import open_source
from headstart.tasks.reading.shapes import examples_of
from headstart.tasks.reading.source import make_task, with_instruction
from headstart.tasks.reading.tables import read_rows, table_name
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite

Row = Example | Mapping[str, Any]
"""An example, or a mapping with `input` and `output`, or of another shape that files may have."""


def open_suite(source: str | SourceSpec) -> TaskSuite:
    """A whole suite in memory.

    Args:
        source: `builtin`, a folder, or a dataset's id on the hub; or all that can be said of one, its filters too.

    Raises:
        SuiteError: it is missing or malformed; the message names the file and line.
    """
    spec = source if isinstance(source, SourceSpec) else SourceSpec(source)
    opened = open_source(spec)
    part = Part(spec, opened, opened.name)
    tasks = {read.task.name: read.task for read in part.read(refuse)}
    for task in tasks.values():
        part.stored(task, task)
    return TaskSuite(opened.name, tasks, part.splits(refuse), revision_of([(spec, opened)]))


def read_task(path: Path | str, columns: Mapping[str, str] | None = None) -> Task:
    """Read one file as one task; repeated inputs keep their first row, and instructions that differ go in front of their inputs.

    Args:
        path: a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file.
        columns: role -> column, as `headstart adapt --columns` takes them; noticed where None.

    Raises:
        SuiteError: no such file, another ending, or a malformed row; the message names the file and line.
    """
    path = Path(path)
    pairs = list(examples_of(read_rows(path), columns))
    read = make_task(table_name(path), pairs, refuse, cluster="user", place=Place(str(path)), labels=())
    if read is None:
        raise SuiteError(f"{path}: the file has no rows")
    return read.task


def as_examples(rows: Iterable[Row]) -> tuple[Example, ...]:
    """Examples from examples, or from mappings of any shape that files may have; repeated inputs keep their first row.

    A row's own instruction goes in front of its input, which renders to the same.

    Raises:
        SuiteError: a row is none.
    """
    found: dict[object, Example] = {}
    for number, row in enumerate(rows, start=1):
        for example in [row] if isinstance(row, Example) else _examples(row, number):
            found.setdefault(example.asked, example)
    return tuple(found.values())


def _examples(row: Mapping[str, Any], number: int) -> list[Example]:
    return [with_instruction(pair) for pair in examples_of([(Place("", number, "row"), row)])]


def first_of_each(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples without those whose input came before."""
    first: dict[object, Example] = {}
    for example in examples:
        first.setdefault(example.asked, example)
    return tuple(first.values())
