"""Rows of JSON lines, JSON, CSV, TSV and Parquet files, whatever their columns."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headstart.tasks.problems import Counting, DataError, Place, Problem, Report, refuse
from headstart.tasks.reading.text import MAX_LINE, opened, read_lines, read_text

Row = Mapping[str, Any]
PARQUET_ROWS = 1000
A_LIST = "the file looks like one JSON list, so give it the ending .json"


def read_rows(path: Path | str, report: Report = refuse) -> Iterator[tuple[Place, Row]]:
    """The rows of a file with their places, read as they are asked for.

    Args:
        path: `.jsonl`, `.json`, `.csv`, `.tsv`, each of them also with `.gz` behind it, or `.parquet`.
        report: is told every row that cannot be read, which is left out then; what stops the reading is told too.

    Raises:
        DataError: by the report, if that raises.
    """
    path, rows, counting = Path(path), 0, Counting(report)
    try:
        for place, row in _reader(path)(path, counting):
            rows += 1
            yield place, row
    except DataError as error:
        # where the report is what raised, telling it again raises again
        report(error.problem)
        return
    if not rows and not counting.errors:
        report(Problem("the file has no rows", Place(str(path))))


def is_table(path: Path) -> bool:
    """Whether a file's name has an ending that `read_rows` knows."""
    return _ending(path) in READERS


def table_name(path: Path) -> str:
    """A file's name without its endings."""
    plain = path.name.removesuffix(".gz")
    return plain[: len(plain) - len(_ending(path))]


def _ending(path: Path) -> str:
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return plain.suffix.lower()


def _reader(path: Path) -> Callable[[Path, Report], Iterator[tuple[Place, Row]]]:
    ending = _ending(path)
    if ending == ".parquet" and path.suffix == ".gz":
        raise DataError(Problem("cannot read a Parquet file in a gzip; unpack it", Place(str(path))))
    if ending not in READERS:
        what = repr(ending) if ending else "a file without an ending"
        raise DataError(Problem(f"cannot read {what}; give a {', '.join(READERS)} file", Place(str(path))))
    return READERS[ending]


def _json_lines(path: Path, report: Report) -> Iterator[tuple[Place, Row]]:
    for number, line in read_lines(path, report):
        place = Place(str(path), number)
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except ValueError as error:
            if line.lstrip().startswith("["):
                raise DataError(Problem(f"not valid JSON lines; {A_LIST}", place)) from error
            report(Problem(f"not valid JSON ({error})", place))
            continue
        except RecursionError:
            report(Problem("JSON that is nested too deeply", place))
            continue
        if not isinstance(row, dict):
            lists = f"; {A_LIST}" if isinstance(row, list) else ""
            report(Problem(f"is {kind(row)}; a row is a JSON object with `input` and `output`{lists}", place))
            continue
        yield place, row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of two members of one name, Python's reader would drop the first in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is twice in one object")
    return content


def _json(path: Path, report: Report) -> Iterator[tuple[Place, Row]]:
    rows = _list_of(read_json(path), path)
    for number, row in enumerate(rows, start=1):
        place = Place(str(path), number, "row")
        if isinstance(row, dict):
            yield place, row
        else:
            report(Problem(f"is {kind(row)}; a row is a JSON object with `input` and `output`", place))


def read_json(path: Path) -> Any:
    """A JSON document.

    Raises:
        DataError: it cannot be read, or is no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise DataError(Problem("JSON that is nested too deeply", Place(str(path)))) from error
    except ValueError as error:
        lines = "; it looks like JSON lines, so give it the ending .jsonl" if "Extra data" in str(error) else ""
        raise DataError(Problem(f"not valid JSON ({error}){lines}", Place(str(path)))) from error


def _list_of(content: Any, path: Path) -> list[Any]:
    """The rows of a document: a list, or the only list in an object, as in `{"data": [...]}`."""
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise DataError(Problem(f"expected a JSON list of rows, or an object with one list in it; found {kind(content)}", Place(str(path))))
    return content


def _csv(path: Path, report: Report) -> Iterator[tuple[Place, Row]]:
    return _separated(path, report, None)


def _tsv(path: Path, report: Report) -> Iterator[tuple[Place, Row]]:
    return _separated(path, report, "\t")


def _separated(path: Path, report: Report, delimiter: str | None) -> Iterator[tuple[Place, Row]]:
    csv.field_size_limit(MAX_LINE)
    lines = (line for _, line in read_lines(path))
    head = list(_head(lines))
    reader = csv.reader(chain(head, lines), delimiter=delimiter or _delimiter(head), strict=True)
    started = len(head) or 1
    try:
        names = _header(next((cells for cells in reader if cells), []), Place(str(path), started))
        started = reader.line_num + 1
        for cells in reader:
            place, started = Place(str(path), started), reader.line_num + 1
            if len(cells) == len(names):
                yield place, dict(zip(names, cells, strict=True))
            elif cells:
                report(Problem(_ragged(len(cells), len(names)), place))
    except csv.Error as error:
        told = "the row that begins here is not whole CSV"
        raise DataError(Problem(f"{told} ({error}); a quote that opens a cell must close it too", Place(str(path), started))) from error


def _head(lines: Iterator[str]) -> Iterator[str]:
    """The lines up to the first that is not blank."""
    for line in lines:
        yield line
        if line.strip():
            return


def _delimiter(head: list[str]) -> str:
    """What parts the names of columns; spreadsheets of some languages write semicolons."""
    names = "".join(head[-1:])
    return next((mark for mark in ";\t" if mark in names and "," not in names), ",")


def _header(names: list[str], place: Place) -> list[str]:
    names = [name.strip() for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        fault = f"two columns are called {twice[0]!r}" if twice[0] else "two columns have no name"
        raise DataError(Problem(f"{fault}; give every column a name of its own", place))
    return names


def _ragged(cells: int, names: int) -> str:
    if cells > names:
        return f"{cells} cells, more than the {names} columns; put a cell that has commas or line ends in quotes"
    return f"{cells} cells, fewer than the {names} columns; fill the row up, if with empty cells"


def _parquet(path: Path, report: Report) -> Iterator[tuple[Place, Row]]:
    number = 0
    try:
        with opened(path) as file:
            table = pq.ParquetFile(file)
            _header(table.schema_arrow.names, Place(str(path)))
            for batch in table.iter_batches(PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Place(str(path), number, "row"), row
    except UnicodeDecodeError as error:
        raise DataError(Problem(f"not UTF-8 text (byte 0x{error.object[error.start]:02x})", Place(str(path), number + 1, "row"))) from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(Problem(f"no whole Parquet file ({error}); fetch or write it again", Place(str(path)))) from error


READERS: dict[str, Callable[[Path, Report], Iterator[tuple[Place, Row]]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}


def kind(value: Any) -> str:
    """A value's type in a user's words."""
    if isinstance(value, float) and value != value:
        return "NaN, as pandas writes where a value is missing"
    names = {"NoneType": "empty", "str": "text", "bool": "true or false", "int": "a number", "float": "a number", "list": "a list"}
    return names.get(type(value).__name__, "an object" if isinstance(value, dict) else type(value).__name__)
