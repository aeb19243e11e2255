"""Where suites and examples come from: the builtin suite, a folder in the pool's form, single files for adapting."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headstart.tasks.builtin import builtin_suite
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite

Row = Example | Mapping[str, Any]
"""An example, or a mapping with `input` and `output`."""


def open_suite(source: str) -> TaskSuite:
    """`builtin`, or a folder with `splits.json`, `tasks.json` and one JSON-lines file a task.

    Raises:
        SuiteError: the folder or one of its files is missing or malformed; the message names the file and line.
    """
    return builtin_suite() if source == "builtin" else read_folder(Path(source))


def read_folder(folder: Path) -> TaskSuite:
    """Read a folder: `splits.json` maps split names to task names; `tasks.json`, there or one folder down, describes the tasks."""
    if not folder.is_dir():
        raise SuiteError(f"there is no suite {str(folder)!r}: give `builtin` or a folder with splits.json and tasks.json")
    index = next((path for path in (folder / "tasks.json", *sorted(folder.glob("*/tasks.json"))) if path.is_file()), None)
    if index is None or not (folder / "splits.json").is_file():
        raise SuiteError(f"{folder} is no suite folder: it needs splits.json, and tasks.json in it or one folder down")
    splits = _splits(folder / "splits.json")
    wanted = {name for names in splits.values() for name in names}
    tasks = {entry["name"]: _task(entry, index) for entry in _entries(index) if entry["name"] in wanted}
    return TaskSuite(folder.resolve().name, tasks, splits, _revision(tasks, splits))


def _revision(tasks: Mapping[str, Task], splits: Mapping[str, Sequence[str]]) -> str:
    """A digest of all that the suite holds: its splits, and every task to its last row."""
    digest = hashlib.sha256(json.dumps(splits).encode())
    for task in tasks.values():
        digest.update(json.dumps(asdict(task)).encode())
    return digest.hexdigest()[:16]


def read_examples(path: Path | str) -> list[tuple[str, Example]]:
    """Read (instruction, example) pairs from a `.jsonl` or `.csv` file with columns `input`, `output` and, if any, `instruction`.

    Raises:
        SuiteError: no such file, another ending, or a malformed row; the message names the file and line.
    """
    return [(text_of(row, "instruction", where, default=""), _example(row, where)) for where, row in read_rows(path)]


def read_rows(path: Path | str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read (place, row) pairs of a `.jsonl` or `.csv` file, whatever the rows' columns.

    Raises:
        SuiteError: no such file, another ending, no rows, or one that is no row; the message names the file and line.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise SuiteError(f"{path}: cannot read {path.suffix or 'a file without an ending'!r}; give a .jsonl or .csv file")
    if not path.is_file():
        raise SuiteError(f"{path}: no such file")
    rows = list(readers[path.suffix](path))
    if not rows:
        raise SuiteError(f"{path}: the file has no rows")
    return rows


def text_of(row: Mapping[str, Any], column: str, where: str, default: str | None = None) -> str:
    """A row's text in a column; raises a `SuiteError` that names the place where there is none and no default, or where it is no text."""
    value = row.get(column, default)
    if not isinstance(value, str):
        fault = "is missing" if value is None else f"is {type(value).__name__}, not text"
        raise SuiteError(f"{where}: `{column}` {fault}; columns found: {', '.join(map(str, row))}")
    return value


def read_task(path: Path | str) -> Task:
    """Read one file as one task; repeated inputs keep their first row.

    Raises:
        SuiteError: as `read_examples`, or the rows have more than one instruction.
    """
    pairs = read_examples(path)
    instructions = list(dict.fromkeys(instruction for instruction, _ in pairs))
    if len(instructions) > 1:
        raise SuiteError(f"{path}: {len(instructions)} different instructions; one file is one task, so split it")
    return Task(Path(path).stem, instructions[0], first_of_each(example for _, example in pairs), cluster="user")


def first_of_each(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The examples without those whose input came before."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.input, example)
    return tuple(first.values())


def as_examples(rows: Iterable[Row]) -> tuple[Example, ...]:
    """Examples from examples, or from mappings with `input` and `output`; repeated inputs keep their first row.

    Raises:
        SuiteError: a row lacks one of them, or it is no text.
    """
    return first_of_each(row if isinstance(row, Example) else _example(row, f"row {number}") for number, row in enumerate(rows, start=1))


def _splits(path: Path) -> dict[str, tuple[str, ...]]:
    """The splits of a file that may also hold notes: a split is a list of task names."""
    found = {key: tuple(value) for key, value in _json(path, dict).items() if isinstance(value, list)}
    if "meta_train" not in found:
        raise SuiteError(f"{path}: no list `meta_train`; it has {', '.join(found) or 'no lists of tasks'}")
    for split, names in found.items():
        if not all(isinstance(name, str) for name in names):
            raise SuiteError(f"{path}: the list `{split}` must hold task names only")
    return found


def _entries(index: Path) -> list[Mapping[str, Any]]:
    entries: list[Any] = _json(index, list)
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise SuiteError(f"{index}: entry {number} is no JSON object with a `name`")
    return entries


def _task(entry: Mapping[str, Any], index: Path) -> Task:
    lacking = [key for key in ("file", "cluster") if not isinstance(entry.get(key), str)]
    if lacking:
        raise SuiteError(f"{index}: task {entry['name']!r} lacks {lacking[0]!r}")
    path = next((path for path in (index.parent.parent / entry["file"], index.parent / entry["file"]) if path.is_file()), None)
    if path is None:
        raise SuiteError(f"{index}: task {entry['name']!r} names the file {entry['file']!r}, which is not there")
    examples, labels = [], tuple(map(str, entry.get("labels") or ()))
    for where, row in _json_lines(path):
        examples.append(_example(row, where))
        if labels and examples[-1].output not in labels:
            raise SuiteError(f"{where}: `output` {examples[-1].output!r} is not among the labels of {entry['name']!r}: {', '.join(labels)}")
    if not examples:
        raise SuiteError(f"{path}: the file has no rows; give task {entry['name']!r} some, or take it out of {index.name}")
    return Task(
        name=entry["name"],
        instruction=entry.get("instruction", ""),
        examples=tuple(examples),
        cluster=entry["cluster"],
        labels=labels,
        dataset=entry.get("dataset", ""),
    )


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise SuiteError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        raise SuiteError(f"{path}: expected a JSON {'list' if kind is list else 'object'}")
    return content


def _read(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SuiteError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_read(path).split("\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SuiteError(f"{where}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise SuiteError(f"{where}: a row is a JSON object with `input` and `output`")
        yield where, row


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_read(path), newline=""))
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if None in row:
            raise SuiteError(f"{where}: more cells than columns; put a cell that has commas in quotes")
        yield where, row


def _example(row: Mapping[str, Any], where: str) -> Example:
    text, answer = text_of(row, "input", where), text_of(row, "output", where)
    if not answer.strip():
        raise SuiteError(f"{where}: `output` is empty; every row needs an answer to train on")
    return Example(text, answer)
