"""A folder of plain files, each of them a task, or one such file."""

from collections.abc import Iterator
from pathlib import Path

from headstart.tasks.problems import DataError, Place, Problem, Report
from headstart.tasks.reading.shapes import examples_of
from headstart.tasks.reading.source import ReadTask, Source, cluster_of, digest_files, in_drawn_order, make_task, require_cluster_pattern
from headstart.tasks.reading.tables import is_table, read_rows, table_name
from headstart.tasks.reading.text import listing
from headstart.tasks.spec import SourceSpec


def tables_in(folder: Path) -> list[Path]:
    """The files of a folder that hold rows, by their endings; hidden ones left out."""
    return [path for path in listing(folder) if is_table(path) and not path.name.startswith(".")]


def read_plain_files(spec: SourceSpec, report: Report) -> Source:
    """The files as a source without splits of its own; a task is called like its file.

    Raises:
        DataError: there is no file of rows, or one cannot be opened.
    """
    require_cluster_pattern(spec)
    path, files = Path(spec.path), dict[str, Path]()
    for file in tables_in(path) if path.is_dir() else [path]:
        known = files.setdefault(table_name(file), file)
        if known != file:
            report(Problem(f"the task {table_name(file)!r} has another file, {known.name}; rename one", Place(str(file))))
    if not files:
        raise DataError(Problem("holds no .jsonl, .json, .csv, .tsv or .parquet file", Place(str(path))))

    def read(report: Report) -> Iterator[ReadTask]:
        for name, file in files.items():
            rows = read_rows(file, report)
            pairs = list(examples_of(rows, spec.columns, spec.turns, spec.instruction, report))
            task = make_task(name, pairs, report, cluster=cluster_of(name, spec, report), place=Place(str(file))) if pairs else None
            if task:
                yield in_drawn_order(task)

    return Source(path.resolve().name, digest_files(files.values()), None, read)
