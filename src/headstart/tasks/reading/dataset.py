"""Any dataset that the library datasets loads, from the hub or from files, parted into tasks by a column.

Its rows go through a spool once, and from then on are read from there, task by task; streamed or not, memory holds none of them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from headstart.files import cache_folder, whole_folder, write_json
from headstart.tasks.problems import DataError, Place, Problem, Report
from headstart.tasks.reading.shapes import Pair, Shape, columns_in, find_shape, of_others, pairs_of, text_of
from headstart.tasks.reading.source import ReadTask, Source, cluster_of, digest_files, make_task, require_cluster_pattern
from headstart.tasks.reading.spool import Spool
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example

LATEST = "latest.json"
DECIDES = ("path", "name", "split", "data_files", "columns", "turns", "instruction", "task_column", "cluster_column", "max_examples")
"""What of a spec decides which rows are spooled."""


def read_dataset(spec: SourceSpec, report: Report) -> Source:
    """A dataset as a source without splits of its own, or, without a `task_column`, as a single task.

    Raises:
        DataError: it cannot be loaded, brings code of its own, or lacks a column.
    """
    require_cluster_pattern(spec)
    path = Path(spec.path)
    local = path.exists()
    revision = _local_revision(path) if local else _hub_revision(spec)
    decides = {key: value for key, value in asdict(spec).items() if key in DECIDES}
    key = hashlib.sha256(json.dumps([decides, revision], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "datasets" / key
    if not (folder / "index.json").is_file():
        with whole_folder(folder) as fresh:
            # the commit that the key tells of, whatever comes upon a branch meanwhile
            _spool(spec if local else replace(spec, revision=revision), fresh)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))

    def read(report: Report) -> Iterator[ReadTask]:
        # faults were found when the rows were spooled, and are told to everyone who reads them
        for fault in index["faults"]:
            report(Problem(fault["text"], Place(fault["file"], fault["row"], "row"), fault["column"], fault["level"]))
        for name, cluster in index["tasks"].items():
            place = Place(spec.path, None, "row")
            pairs = list(_pairs(folder / index["files"][name], spec.path))
            task = make_task(name, pairs, report, cluster=cluster or cluster_of(name, spec, report), place=place, licence=index["licence"])
            if task:
                yield task

    return Source(path.resolve().name if local else spec.path, key, None, read)


def _pairs(path: Path, file: str) -> Iterator[Pair]:
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            history = tuple((role, text) for role, text in row["history"])
            yield Pair(row["instruction"], Example(row["input"], row["output"], history), Place(file, row["row"], "row"))


def _spool(spec: SourceSpec, folder: Path) -> None:
    """Part a dataset's rows into a file for each task, with an index of them."""
    rows, names, licence = _loaded(spec)
    spool, faults = Spool(folder / "spool", spec.max_examples), list[Problem]()
    spool.folder.mkdir()
    clusters = _parted(rows, names, spec, spool, faults)
    if not spool.tasks():
        raise DataError(faults[0] if faults else Problem("the dataset has no rows", Place(spec.path)))
    files = {task: f"{number}.jsonl" for number, task in enumerate(spool.tasks())}
    for task, file in files.items():
        (folder / file).write_text("".join(f"{json.dumps(row)}\n" for row in spool.rows(task)), encoding="utf-8")
    spool.remove()
    tasks, told = {task: clusters[task] for task in files}, [fault.as_json() for fault in faults]
    index = {"tasks": tasks, "files": files, "faults": told, "licence": licence}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _parted(
    rows: Iterable[Mapping[str, Any]], names: Mapping[str, Sequence[str]], spec: SourceSpec, spool: Spool, faults: list[Problem]
) -> dict[str, str]:
    """Put rows into the spool, and what is wrong with others into `faults`; the tasks' clusters, empty where no column tells them."""
    clusters: dict[str, str] = {}
    shape: Shape | None = None
    for number, row in enumerate(rows, start=1):
        place = Place(spec.path, number, "row")
        # a fault of the first row's columns is one of all rows'
        shape = shape or _found_shape(spec, list(map(str, row)))
        try:
            row = _named(row, names, place)
            task = _cell(row, spec.task_column, place) if spec.task_column else spec.name or Path(spec.path).name
            pairs = pairs_of(row, shape, place, spec.turns, spec.instruction)
            _require_cluster(row, task, spec, clusters, place)
        except DataError as error:
            faults.append(of_others(error.problem.at(place)))
            continue
        for pair in pairs:
            spool.add(task, {"instruction": pair.instruction, **_plain(pair.example), "row": number})
    return clusters


def _require_cluster(row: Mapping[str, Any], task: str, spec: SourceSpec, clusters: dict[str, str], place: Place) -> None:
    """Note a task's cluster at its first row; the others have the same."""
    cluster = _cell(row, spec.cluster_column, place) if spec.cluster_column else ""
    first = clusters.setdefault(task, cluster)
    if cluster != first:
        told = f"is {cluster!r}, but {first!r} in the first row of the task {task!r}; a task is held out whole, so give it one cluster"
        raise DataError(Problem(told, place, spec.cluster_column))


def _named(row: Mapping[str, Any], names: Mapping[str, Sequence[str]], place: Place) -> Mapping[str, Any]:
    """A row with its classes' names for their numbers."""
    numbers = {column: number for column in names if isinstance(number := row.get(column), int)}
    for column, number in numbers.items():
        # -1 is how datasets mark what has no label, as in many test splits
        if not 0 <= number < len(names[column]):
            told = f"is {number}, which is no class, so the label is missing; read another split, or leave the row out"
            raise DataError(Problem(told, place, column))
    return {**row, **{column: names[column][number] for column, number in numbers.items()}}


def _plain(example: Example) -> dict[str, Any]:
    return {"input": example.input, "output": example.output, "history": example.history}


def _cell(row: Mapping[str, Any], column: str, place: Place) -> str:
    """A task's or cluster's name, which may be a number."""
    value = row.get(column)
    name = str(value) if isinstance(value, int) else text_of(row, column, place).strip()
    if not name:
        raise DataError(Problem("is empty; every row names its task and cluster", place, column))
    return name


def _found_shape(spec: SourceSpec, found: Sequence[str]) -> Shape:
    for role, column in (("task_column", spec.task_column), ("cluster_column", spec.cluster_column)):
        if column is not None and column not in found:
            raise DataError(Problem(f"{role}: there is no column {column!r}; columns found: {', '.join(found)}", Place(spec.path)))
    try:
        return find_shape(found, spec.columns)
    except DataError as error:
        raise DataError(error.problem.at(Place(spec.path))) from error


def _loaded(spec: SourceSpec) -> tuple[Iterable[Mapping[str, Any]], dict[str, list[str]], str]:
    """The rows, column -> names of its classes, and the licence that the dataset names."""
    from datasets import ClassLabel

    with _telling(spec):
        data = _opened(spec)
        features = data.features or {}
        if features:
            data = data.select_columns(_wanted(spec, list(features)))
    names = {column: list(feature.names) for column, feature in features.items() if isinstance(feature, ClassLabel)}
    licence = str(getattr(data.info, "license", "") or "")
    return _iterated(data, spec), names, licence


def _opened(spec: SourceSpec) -> Any:
    from datasets import DatasetDict, load_dataset, load_from_disk

    path, files = Path(spec.path), list(spec.data_files) if spec.data_files else None
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        data = load_from_disk(spec.path)
        if isinstance(data, DatasetDict) and spec.split not in data:
            raise DataError(Problem(f"split: there is no {spec.split!r}; there are {', '.join(map(str, data))}", Place(spec.path)))
        return data[spec.split] if isinstance(data, DatasetDict) else data
    # the library takes folders only
    folder, files = (str(path.parent), [path.name]) if path.is_file() else (spec.path, files)
    return load_dataset(folder, spec.name, data_files=files, split=spec.split, revision=spec.revision, streaming=spec.streaming)


def _iterated(data: Iterable[Mapping[str, Any]], spec: SourceSpec) -> Iterator[Mapping[str, Any]]:
    with _telling(spec):
        yield from data


@contextmanager
def _telling(spec: SourceSpec) -> Iterator[None]:
    """Turn the library's errors, which are of all kinds, into a `DataError`."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(Problem(_refusal(error), Place(spec.path))) from error


def _wanted(spec: SourceSpec, found: list[str]) -> list[str]:
    """The columns that are read; pictures and sounds beside them are never decoded."""
    shape = _found_shape(spec, found)
    wanted = {*shape.columns.values(), spec.task_column, spec.cluster_column, *columns_in(spec.instruction)}
    return [column for column in found if column in wanted]


def _refusal(error: Exception) -> str:
    told = _told(error)
    if "script" in told.lower() and ".py" in told:
        return (
            f"brings code of its own for loading it, which headstart never runs ({told}); give its data files, or a copy of it in Parquet"
        )
    if "BuilderConfig" in told or "Config name" in told:
        return f"cannot be loaded: {told}; say which configuration by `name`"
    return f"cannot be loaded by the library datasets: {told}; check the path or id, your access to it (`hf auth login`), and the network"


def _told(error: BaseException) -> str:
    """An error's first line; where the library only says that something went wrong, that of what went wrong."""
    told = next(iter(str(error).splitlines()), type(error).__name__)
    return _told(error.__cause__) if told.startswith("An error occurred while generating") and error.__cause__ else told


def _local_revision(path: Path) -> str:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
    return digest_files(files)


def _hub_revision(spec: SourceSpec) -> str:
    """The commit that is read: the hub's answer, or, without the hub, that of the last time."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    place = cache_folder() / "datasets" / hashlib.sha256(repr((spec.path, spec.revision)).encode()).hexdigest()[:16] / LATEST
    try:
        sha = str(HfApi().dataset_info(spec.path, revision=spec.revision).sha)
    except HFValidationError as error:
        raise DataError(Problem(f"is neither a folder nor a dataset's id ({error})", Place(spec.path))) from error
    except Exception as error:
        # the client lets errors of its network library pass, whose name changes
        if place.is_file():
            return str(json.loads(place.read_text(encoding="utf-8"))["sha"])
        told = f"there is no such folder, and the hub gives no such dataset ({type(error).__name__})"
        raise DataError(
            Problem(f"{told}; check the path or id, your access to it (`hf auth login`), and the network", Place(spec.path))
        ) from error
    write_json(place, {"sha": sha})
    return sha
