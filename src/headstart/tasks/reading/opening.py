"""Opening sources: which layout lies where."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from headstart.tasks.builtin import builtin_suite
from headstart.tasks.problems import DataError, Place, Problem, Report, refuse
from headstart.tasks.reading import dataset, folder, natural_instructions, plain_files
from headstart.tasks.reading.source import Source, of_suite
from headstart.tasks.reading.tables import is_table
from headstart.tasks.reading.text import why_not
from headstart.tasks.spec import SourceKind, SourceSpec

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
"""As the hub names datasets: never with a point first, so that `../pool` is a folder, be it there or not."""
WHAT_THERE_IS = "give `builtin`, a folder with splits.json and tasks.json, one of files that are a task each, or a dataset's id on the hub"

READERS: Mapping[SourceKind, Callable[[SourceSpec, Report], Source]] = {
    "builtin": lambda spec, report: of_suite(builtin_suite()),
    "folder": folder.read_folder,
    "natural_instructions": natural_instructions.read_natural_instructions,
    "files": plain_files.read_plain_files,
    "dataset": dataset.read_dataset,
}


def open_source(spec: SourceSpec, report: Report = refuse) -> Source:
    """Open a source; its tasks are read when they are asked for.

    Raises:
        DataError: there is nothing of that name, or its index cannot be read.
    """
    try:
        return READERS[source_kind(spec)](spec, report)
    except OSError as error:
        raise DataError(Problem(why_not(error), Place(str(error.filename or spec.path)))) from error


def source_kind(spec: SourceSpec) -> SourceKind:
    """The layout that a spec names, or that lies where it says.

    Raises:
        DataError: nothing known lies there.
    """
    if spec.kind != "auto":
        return spec.kind
    path = Path(spec.path)
    if spec.path == "builtin":
        return "builtin"
    if not _is_there(path):
        if spec.task_column or HUB_ID.fullmatch(spec.path):
            return "dataset"
        raise DataError(Problem(f"there is no suite {spec.path!r}: {WHAT_THERE_IS}"))
    return _kind_of_file(spec) if path.is_file() else _kind_of_folder(spec)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _kind_of_file(spec: SourceSpec) -> SourceKind:
    if not is_table(Path(spec.path)):
        raise DataError(Problem("is no .jsonl, .json, .csv, .tsv or .parquet file", Place(spec.path)))
    return "dataset" if spec.task_column else "files"


def _kind_of_folder(spec: SourceSpec) -> SourceKind:
    path = Path(spec.path)
    if (path / "splits.json").is_file() or folder.find_index(path):
        return "folder"
    if natural_instructions.looks_like_it(path):
        return "natural_instructions"
    if spec.task_column or spec.data_files or not plain_files.tables_in(path):
        code = next(iter(sorted(path.glob("*.py"))), None)
        if code is None and not spec.task_column and not spec.data_files and not (path / "dataset_info.json").is_file():
            raise DataError(Problem(f"is no suite folder, and no file of rows lies in it: {WHAT_THERE_IS}", Place(spec.path)))
        return "dataset"
    return "files"
