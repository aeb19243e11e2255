"""A folder in the form of a suite: `splits.json`, `tasks.json` and a file of rows for each task."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headstart.tasks.problems import DataError, Place, Problem, Report
from headstart.tasks.reading.shapes import examples_of
from headstart.tasks.reading.source import ReadTask, Source, digest_files, make_task
from headstart.tasks.reading.tables import kind, read_json, read_rows
from headstart.tasks.reading.text import listing
from headstart.tasks.spec import SourceSpec

Entry = Mapping[str, Any]
MAY_BE_LEFT_OUT = ("instruction", "dataset", "language", "licence", "license", "data_terms")


def find_index(folder: Path) -> Path | None:
    """The folder's `tasks.json`, in it or one folder down."""
    places = [folder, *(path for path in listing(folder) if path.is_dir())]
    return next((path / "tasks.json" for path in places if (path / "tasks.json").is_file()), None)


def read_folder(spec: SourceSpec, report: Report) -> Source:
    """A suite's folder as a source.

    Raises:
        DataError: its splits or its index cannot be read at all.
    """
    folder = Path(spec.path)
    index, splits_file = find_index(folder), folder / "splits.json"
    if index is None or not splits_file.is_file():
        raise DataError(Problem("is no suite folder: it needs splits.json, and tasks.json in it or one folder down", Place(str(folder))))
    splits = _splits(splits_file, report)
    wanted = {name for names in splits.values() for name in names}
    every = list(_entries(index, report))
    described = {entry["name"] for entry in every}
    for split, name in [(split, name) for split, names in splits.items() for name in names]:
        if name not in described:
            told = f"split {split!r} names the task {name!r}, which the suite does not have; take it out, or describe it in {index.name}"
            report(Problem(told, Place(str(splits_file))))
    entries = [entry for entry in every if entry["name"] in wanted]
    files = {entry["name"]: file for entry in entries if (file := _file(entry, index, report))}
    known = {split: tuple(name for name in names if name in files) for split, names in splits.items()}
    revision = digest_files([splits_file, index, *files.values()])

    def read(report: Report) -> Iterator[ReadTask]:
        for entry in entries:
            task = _task(entry, files[entry["name"]], spec, report) if entry["name"] in files else None
            if task:
                yield task

    return Source(folder.resolve().name, revision, known, read)


def _splits(path: Path, report: Report) -> dict[str, tuple[str, ...]]:
    """The splits of a file that may also hold notes: a split is a list of task names."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(Problem(f"expected a JSON object of splits, found {kind(content)}", Place(str(path))))
    found = {key: value for key, value in content.items() if isinstance(value, list)}
    if "meta_train" not in found:
        raise DataError(Problem(f"no list `meta_train`; it has {', '.join(found) or 'no lists of tasks'}", Place(str(path))))
    for split, names in found.items():
        if not all(isinstance(name, str) for name in names):
            raise DataError(Problem(f"the list `{split}` must hold task names only", Place(str(path))))
    return _once({split: tuple(names) for split, names in found.items()}, path, report)


def _once(splits: Mapping[str, tuple[str, ...]], path: Path, report: Report) -> dict[str, tuple[str, ...]]:
    """The splits with every task in the first that names it."""
    seen: dict[str, str] = {}
    for split, name in [(split, name) for split, names in splits.items() for name in names]:
        if name in seen:
            report(Problem(f"the task {name!r} is in split {seen[name]!r} and in {split!r}; a task is held out whole", Place(str(path))))
        seen.setdefault(name, split)
    return {split: tuple(dict.fromkeys(name for name in names if seen[name] == split)) for split, names in splits.items()}


def _entries(index: Path, report: Report) -> Iterator[Entry]:
    content, seen = read_json(index), set[str]()
    if not isinstance(content, list):
        raise DataError(Problem(f"expected a JSON list of tasks, found {kind(content)}", Place(str(index))))
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            report(Problem(f"entry {number} is no JSON object with a `name`", Place(str(index))))
        elif entry["name"] in seen:
            report(Problem(f"entry {number} has the name {entry['name']!r} once more; names are unique in a suite", Place(str(index))))
        else:
            seen.add(entry["name"])
            yield entry


def _file(entry: Entry, index: Path, report: Report) -> Path | None:
    faults = [f"task {entry['name']!r} {fault}" for fault in _faults(entry)]
    for fault in faults:
        report(Problem(fault, Place(str(index))))
    if faults:
        return None
    path = next((path for path in (index.parent.parent / entry["file"], index.parent / entry["file"]) if path.is_file()), None)
    if path is None:
        report(Problem(f"task {entry['name']!r} names the file {entry['file']!r}, which is not there", Place(str(index))))
    return path


def _faults(entry: Entry) -> Iterator[str]:
    """What an entry of the index lacks, or has of a wrong type."""
    for key in ("file", "cluster"):
        if not isinstance(entry.get(key), str):
            yield f"lacks {key!r}"
    for key in MAY_BE_LEFT_OUT:
        if not isinstance(entry.get(key) or "", str):
            yield f"has {kind(entry[key])} for {key!r}; give text, or leave it out"
    labels = entry.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
        yield "has no list of texts for 'labels'; give one, or leave it out"
    wordings = entry.get("instruction_variants") or []
    if not isinstance(wordings, list) or not all(isinstance(wording, str) for wording in wordings):
        yield "has no list of texts for 'instruction_variants'; give one, or leave it out"


def _task(entry: Entry, path: Path, spec: SourceSpec, report: Report) -> ReadTask | None:
    pairs = list(examples_of(read_rows(path, report), spec.columns, report=report))
    # where there are none, what they lack has been told
    if not pairs:
        return None
    return make_task(
        entry["name"],
        pairs,
        report,
        cluster=entry["cluster"],
        place=Place(str(path)),
        labels=tuple(map(str, entry.get("labels") or ())),
        instruction=entry.get("instruction", ""),
        dataset=entry.get("dataset") or "",
        language=entry.get("language") or "",
        licence=entry.get("licence") or entry.get("license") or "",
        data_terms=entry.get("data_terms") or "",
        paraphrases=[wording.strip() for wording in entry.get("instruction_variants") or ()],
    )
